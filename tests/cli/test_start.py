"""What a command loads: `--help` and a build with nothing to do load nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Forge

_HEAVY = {
    "jsonschema",
    "numpy",
    "onnx",
    "packaging",
    "rich",
    "tensorrt_rtx",
    "yaml",
}
_SAY_MODULES = """
import sys
from engineforge.cli.main import main
try:
    main(sys.argv[1:])
finally:
    print(*sorted({name.split(".")[0] for name in sys.modules}), file=sys.stderr)
"""


def _loaded(folder: Path, *args: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", _SAY_MODULES, *args],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("args", [("build", "specs"), ("plan", "specs")])
def test_a_command_with_nothing_to_do_loads_nothing_heavy(
    built: Forge, args: tuple[str, ...]
) -> None:
    loaded = _loaded(built.root, *args)
    assert "msgspec" in loaded
    assert not loaded & _HEAVY


def test_help_loads_nothing_but_the_command_line(tmp_path: Path) -> None:
    loaded = _loaded(tmp_path, "--help")
    assert not loaded & {*_HEAVY, "msgspec", "subprocess", "json"}


def test_a_plan_that_reads_specs_loads_no_tensorrt_and_no_onnx(forge: Forge) -> None:
    assert not _loaded(forge.root, "plan", "specs") & {"tensorrt_rtx", "onnx", "numpy", "rich"}
