"""Builds that take a while, and what the operating system says of their processes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.conftest import Forge
from tests.models import elementwise

_CHAIN = """\
model:
  source: {{path: models/{name}.onnx}}
inputs:
  x: {{min: [1, 64], opt: [4, 64], max: [8, 64]}}
targets: [{targets}]
variants:
  fp32: {{precision: fp32}}
"""


def chain(forge: Forge, name: str, nodes: int, targets: Sequence[str] = ("ada",)) -> None:
    """A spec of a chain of elementwise nodes: 2,000 of them build for seconds, 500 do not."""
    elementwise(
        forge.specs / "models" / f"{name}.onnx", inputs=[("x", ("batch", 64))], length=nodes
    )
    forge.spec(name, _CHAIN.format(name=name, targets=", ".join(targets)))


def until(condition: Callable[[], Any], seconds: float = 60) -> Any:  # noqa: ANN401
    """What `condition` gives, as soon as that is true."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
    return found


def says(process: subprocess.Popen[str], pattern: str) -> str:
    """The next line on stderr that matches."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        if re.search(pattern, line):
            return line
        lines.append(line)
    raise AssertionError(f"it ended and never said '{pattern}', but: {''.join(lines)}")


def builders(cache: Path) -> list[int]:
    """The processes that build into this cache: they work in its staging folder."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                folder = os.readlink(process / "cwd")  # noqa: PTH115 - it may be deleted
            except OSError:
                continue
            if folder.startswith(str(cache / "staging")):
                found.append(int(process.name))
    return found


def outcomes(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Of a `build --json` in a process of its own: what became of each variant."""
    out, err = process.communicate(timeout=120)
    assert out, err
    return {f"{v['spec']}/{v['variant']}@{v['target']}": v for v in json.loads(out)["variants"]}


def litter(cache: Path) -> list[str]:
    """What a cache holds besides its own, in staging: folders of work in progress."""
    own = {"entries-v1", "plans-v1", "projects", "index", "CACHEDIR.TAG", "staging"}
    staging = [each for each in (cache / "staging").iterdir() if each.is_dir()]
    found = [each.name for each in cache.iterdir() if each.name not in own]
    return found + [each.name for each in staging if each.name != "locks"]
