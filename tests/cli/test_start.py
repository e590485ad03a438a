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
_NO_OP = {
    "engineforge",
    "engineforge.cli",
    "engineforge.cli.main",
    "engineforge.cli.noop",
    "engineforge.cli.where",
    "engineforge.project",
    "engineforge.project.forks",
    "engineforge.project.glance",
    "engineforge.project.listing",
    "engineforge.store",
    "engineforge.store.index_file",
    "engineforge.store.known",
    *("array", "collections", "enum", "functools", "importlib", "itertools", "keyword"),
    *("operator", "reprlib", "signal", "types", "warnings", "zlib"),
}
"""All that a build with nothing to do loads: what is new here costs time in every build."""

_HELP = {
    "engineforge",
    "engineforge.cli",
    *("engineforge.cli.main", "engineforge.cli.arguments"),
    *(f"engineforge.cli.arguments.{each}" for each in ("beginning", "building", "engines")),
    *(f"engineforge.cli.arguments.{each}" for each in ("examples", "options", "parsers")),
    *(f"engineforge.cli.arguments.{each}" for each in ("nightly", "promotion", "report", "store")),
    *("argparse", "collections", "copyreg", "enum", "errno", "functools", "gc", "gettext"),
    *(
        "importlib",
        "itertools",
        "keyword",
        "locale",
        "operator",
        "re",
        "reprlib",
        "signal",
        "textwrap",
    ),
    *("types", "warnings", "sre_compile", "sre_constants", "sre_parse"),
    *("bz2", "fnmatch", "lzma", "shutil", "zlib"),  # of `shutil`, which `argparse` loads
}
_SAY_MODULES = """
import sys
before = set(sys.modules)
from engineforge.cli.main import main
try:
    main(sys.argv[1:])
finally:
    print(*sorted(set(sys.modules) - before), file=sys.stderr)
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


def _of_others(loaded: set[str]) -> set[str]:
    """Ours in full, of others the top names; without what is private to them."""
    ours = {each for each in loaded if each.startswith("engineforge")}
    others = {each.partition(".")[0] for each in loaded - ours}
    return ours | {each for each in others if not each.startswith("_")}


@pytest.mark.parametrize("args", [("build", "specs"), ("plan", "specs"), ("build",)])
def test_a_command_with_nothing_to_do_loads_just_this(built: Forge, args: tuple[str, ...]) -> None:
    assert _of_others(_loaded(built.root, *args)) <= _NO_OP


def test_the_long_way_with_nothing_to_do_loads_nothing_heavy(built: Forge) -> None:
    loaded = {each.partition(".")[0] for each in _loaded(built.root, "build", "specs", "--json")}
    assert "msgspec" in loaded
    assert not loaded & _HEAVY


def test_help_loads_just_the_command_line(tmp_path: Path) -> None:
    assert _of_others(_loaded(tmp_path, "--help")) <= _HELP


def test_a_plan_that_reads_specs_loads_no_tensorrt_and_no_onnx(forge: Forge) -> None:
    loaded = {each.partition(".")[0] for each in _loaded(forge.root, "plan", "specs")}
    assert not loaded & {"tensorrt_rtx", "onnx", "numpy", "rich"}
