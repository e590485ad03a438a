"""The table of tools: what each can do, and what is said of one that is not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import engineforge
from engineforge.stages.precision import tools

_REPOSITORY = str(Path(engineforge.__file__).parent.parent)
_ASK = "from engineforge.stages.precision import tools; print(tools.missing('{}'))"


def _missing(tool: str, *places: Path) -> str:
    """What is said where nothing is installed but what is in `places`."""
    path = [_REPOSITORY, *map(str, places)]
    code = f"import sys; sys.path[:0] = {path}; {_ASK.format(tool)}"
    command = [sys.executable, "-I", "-S", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _installed(folder: Path, name: str, version: str) -> Path:
    about = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return folder


@pytest.mark.parametrize(
    ("precision", "tool"),
    [
        ("fp16", "onnxruntime"),
        ("int8", "onnxruntime"),
        ("bf16", "modelopt"),
        ("fp8", "modelopt"),
        ("int4", "modelopt"),
        ("fp32", None),
        ("tf32", None),
        ("source", None),
    ],
)
def test_the_default_tool_is_the_lightest_that_can(precision: str, tool: str | None) -> None:
    assert tools.default_tool(precision) == tool


@pytest.fixture
def core(tmp_path: Path) -> Path:
    """A place with what EngineForge itself needs."""
    for name, version in (("onnx", "1.23.9"), ("numpy", "2.9.1")):
        _installed(tmp_path, name, version)
    return tmp_path


def test_a_tool_that_is_not_installed_is_told_with_the_line_that_installs_it(core: Path) -> None:
    assert _missing("onnxruntime", core) == (
        "tool 'onnxruntime' needs 'onnxruntime', which is not installed: "
        "python -m pip install 'engineforge[precision]'"
    )
    assert _missing("modelopt", core).endswith("python -m pip install 'engineforge[modelopt]'")


def test_another_series_than_the_tested_one_is_missing(core: Path) -> None:
    _installed(core, "onnxruntime", "1.310.0")
    assert "'onnxruntime' 1.31, found 1.310.0" in _missing("onnxruntime", core)


@pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime-gpu"])
def test_any_release_of_the_series_will_do(core: Path, name: str) -> None:
    assert _missing("onnxruntime", _installed(core, name, "1.31.7")) == "None"


def test_keys_hold_series_of_what_has_a_part_in_the_result() -> None:
    assert tools.versions("onnxruntime", "fp16") == {"onnx": "1.23", "numpy": "2"}
    assert tools.versions("onnxruntime", "int8").keys() == {"onnx", "numpy", "onnxruntime"}
    assert tools.versions("modelopt", "int8")["nvidia-modelopt"] == "0.47"
    assert "torch" not in tools.versions("modelopt", "int8")
