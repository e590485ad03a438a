"""Who may import whom. Never relaxed to get a change in: a change that needs it moves walls."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import engineforge

PACKAGE = Path(engineforge.__file__).parent
ROOMS = {
    "__init__": 0,
    "errors": 0,
    "digest": 1,
    "target": 2,
    "spec": 3,
    "plan": 4,
    "store": 5,
    "samples": 5,
    "stages": 6,
    "backends": 6,
    "runtime": 7,
    "checks": 8,
    "worker": 9,
    "project": 10,
    "report": 11,
    "cli": 12,
    "__main__": 13,
}
# Heavy or peculiar modules, and the only files, or folders, that may name them.
ONLY_IN = {
    "yaml": ["spec/load.py"],
    "jsonschema": ["spec/validate.py"],
    "onnx": ["stages/sources/", "stages/precision/", "checks/"],
    "onnxruntime": [
        "stages/precision/autocast.py",
        "stages/precision/contained.py",
        "stages/precision/modelopt.py",
        "stages/precision/onnxruntime.py",
        "stages/precision/ranges.py",
        "checks/run.py",
    ],
    "modelopt": [
        "stages/precision/autocast.py",
        "stages/precision/contained.py",
        "stages/precision/modelopt.py",
    ],
    "onnx_graphsurgeon": ["stages/precision/contained.py"],
    "matplotlib": ["report/plot.py"],
    "torch": [],
    "msgspec": ["store/index.py"],
    "obstore": ["store/bucket.py"],
    "fcntl": ["store/files.py", "store/gate.py", "store/stats.py"],
    "rich": ["cli/progress.py"],
    "packaging": ["backends/options.py"],
    "PIL": ["samples/images.py"],
    "subprocess": ["worker/process.py", "cli/world.py"],
    "pynvml": ["backends/gpu.py"],
    "cuda": ["backends/gpu.py", "runtime/cuda.py"],
    "tensorrt": [],
    "tensorrt_rtx": [],
}
_DRAWERS = {"utils", "util", "common", "helpers", "base", "manager", "misc"}
FILES = sorted(PACKAGE.rglob("*.py"))


def _room(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imports(file: Path) -> Iterator[str]:
    """Every imported module, in functions too, also where only types are checked."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            assert node.module
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_room_imports_only_from_lower_ones(file: Path) -> None:
    room = _room(file)
    for module in _imports(file):
        parts = module.split(".")
        if parts[0] != "engineforge" or len(parts) == 1 or parts[1] in (room, "__version__"):
            continue
        assert ROOMS[parts[1]] < ROOMS[room], f"{room} imports {module}"


@pytest.mark.parametrize("module", ONLY_IN)
def test_heavy_modules_have_one_place(module: str) -> None:
    users = [
        str(file.relative_to(PACKAGE))
        for file in FILES
        if any(each.split(".")[0] == module for each in _imports(file))
    ]
    places = ONLY_IN[module]
    assert not [user for user in users if not user.startswith(tuple(places))]
    assert not [place for place in places if not any(user.startswith(place) for user in users)]


def test_there_are_no_drawers() -> None:
    assert not [file for file in FILES if file.stem in _DRAWERS or file.parent.name in _DRAWERS]


def test_no_file_holds_two_nouns() -> None:
    long = {str(f.relative_to(PACKAGE)): len(f.read_text().splitlines()) for f in FILES}
    assert not {name: lines for name, lines in long.items() if lines > 420}


def test_only_the_command_line_reads_environment_and_clock() -> None:
    ambient = {"os.environ", "os.getenv", "datetime.now", "time.time", "sys.argv", "print"}
    for file in FILES:
        if _room(file) == "cli":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute | ast.Name):
                assert ast.unparse(node) not in ambient, f"{file}:{node.lineno}"
