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
    "drafting": 7,
    "checks": 8,
    "worker": 9,
    "promotion": 9,
    "project": 10,
    "report": 11,
    "nightly": 12,
    "cli": 13,
    "__main__": 14,
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
    "jinja2": ["report/page/html.py"],
    "torch": ["stages/sources/pytorch/"],
    "safetensors": ["stages/sources/pytorch/checkpoints.py"],
    "tensorflow": ["stages/sources/tensorflow/"],
    "keras": ["stages/sources/tensorflow/export.py"],
    "tf2onnx": ["stages/sources/tensorflow/"],
    "sklearn": ["stages/sources/sklearn.py"],
    "skl2onnx": ["stages/sources/sklearn.py"],
    "joblib": ["stages/sources/sklearn.py"],
    "onnxslim": ["stages/sources/simplification.py"],
    "msgspec": ["store/index.py"],
    "obstore": ["store/far/bucket.py"],
    "fcntl": ["store/files.py", "store/stats.py"],
    "ray": ["worker/ray.py"],
    "rich": ["cli/progress.py"],
    "shtab": ["cli/completion.py"],
    "packaging": ["backends/options.py"],
    "PIL": ["samples/images.py"],
    "urllib3": ["promotion/oci/http.py", "promotion/oci/connections.py"],
    "cryptography": ["promotion/attest/keys.py"],
    "securesystemslib": ["promotion/attest/kms.py"],
    "subprocess": ["worker/process.py", "promotion/oci/credentials.py", "cli/world.py"],
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


# What changes a disk, by the names that `os` and `pathlib.Path` have for it.
_OS = {
    *(
        "chmod",
        "fdatasync",
        "fsync",
        "ftruncate",
        "link",
        "makedirs",
        "mkdir",
        "remove",
        "removedirs",
    ),
    *("rename", "renames", "replace", "rmdir", "symlink", "sync", "truncate", "unlink", "utime"),
    *("write", "pwrite", "writev", "posix_fallocate", "fchmod", "mkfifo", "copy_file_range"),
}
_PATH = {
    *("chmod", "hardlink_to", "lchmod", "mkdir", "rename", "replace", "rmdir", "symlink_to"),
    *("touch", "unlink", "write_bytes", "write_text"),
}
# What may do so past `store/disk.py`, and why.
_PAST_THE_SEAM = {
    "store/stats.py": {
        "probe.touch": "a file in staging/ that is asked for its time and gone at once",
        "probe.unlink": "the same",
        "os.fsync": "of other people's files, which are then asked for their times: no change",
    },
    "store/uses.py": {"os.utime": "says when an entry was used last, and may be lost"},
}


def _changes(file: Path) -> Iterator[str]:
    """Every call that changes a disk, as it is written."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            changing = {f"os.{name}" for name in _OS}
            yield from (
                each for each in _imports_of(node) if each in changing or each.startswith("shutil")
            )
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        owner, name = ast.unparse(node.func.value), node.func.attr
        # `text.replace(old, new)` has two arguments, `dataclasses.replace` has names.
        of_path = name in _PATH and (
            name != "replace" or (len(node.args), node.keywords) == (1, [])
        )
        if owner == "os":
            opens = name == "open" and "O_CREAT" in ast.unparse(node)
            if name in _OS or opens:
                yield f"os.{name}"
        elif owner not in ("disk", "files") and (of_path or (name == "open" and _writes(node))):
            yield f"{owner}.{name}"


def _imports_of(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    else:
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _writes(call: ast.Call) -> bool:
    """Whether a file may be made by opening it so."""
    return any(
        isinstance(each, ast.Constant) and set("wxa") & set(str(each.value))
        for each in (*call.args, *(keyword.value for keyword in call.keywords))
    )


def test_the_store_changes_the_disk_through_one_file() -> None:
    past = {
        str(file.relative_to(PACKAGE)): set(_changes(file))
        for file in FILES
        if _room(file) == "store" and file.name != "disk.py"
    }
    assert {file: calls for file, calls in past.items() if calls} == {
        file: set(reasons) for file, reasons in _PAST_THE_SEAM.items()
    }


def test_what_changes_a_disk_is_seen(tmp_path: Path) -> None:
    text = """
import os, shutil
from os import fspath, link
os.replace(a, b); path.replace(b); path.rename(b); path.unlink(missing_ok=True); path.open("xb")
os.open(path, os.O_RDWR | os.O_CREAT)
text.replace("a", "b"); dataclasses.replace(a, b=1); path.open("rb"); files.replace(a, b)
"""
    (tmp_path / "file.py").write_text(text)
    assert sorted(_changes(tmp_path / "file.py")) == [
        "os.link",
        "os.open",
        "os.replace",
        "path.open",
        "path.rename",
        "path.replace",
        "path.unlink",
        "shutil",
    ]


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
