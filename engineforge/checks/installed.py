"""Which ONNX Runtime is here to run a source model with. Imports it not.

An engine is compared with what any of them gives; only the twin of a typed graph needs the one that
knows all its types.
"""

from __future__ import annotations

import re
from importlib import metadata

from engineforge.errors import HostUnfit

_NAMES = ("onnxruntime", "onnxruntime-gpu")
_OLDEST = (1, 18)


def onnxruntime_version() -> str:
    """The exact version; HostUnfit where there is none, or an older one than has been tried."""
    oldest = ".".join(map(str, _OLDEST))
    install = f"python -m pip install 'onnxruntime>={oldest}'"
    for name in _NAMES:
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        numbers = re.match(r"(\d+)\.(\d+)", version)
        if numbers is None or (int(numbers[1]), int(numbers[2])) < _OLDEST:
            raise HostUnfit(f"expected ONNX Runtime {oldest} or later, found {version}: {install}")
        return version
    raise HostUnfit(f"ONNX Runtime is not installed here: {install}")
