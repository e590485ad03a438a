"""Which files a data set is made of, in which order, and what is said where there are none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from engineforge.samples import BadSamples, data_files
from engineforge.spec.model import ArrayFiles, DataSet, ImageFolder, PythonFunction


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def found(data: DataSet, folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in data_files(data, folder)]


def problem(data: DataSet, folder: Path) -> str:
    with pytest.raises(BadSamples) as raised:
        data_files(data, folder)
    return str(raised.value)


def test_planning_loads_no_numpy() -> None:
    code = (
        "import sys; from engineforge.samples import data_files; "
        "sys.exit(bool({'numpy', 'PIL', 'yaml'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_file_is_itself(tmp_path: Path) -> None:
    touch(tmp_path, "data/x.npz")
    assert found(ArrayFiles(path="data/x.npz"), tmp_path) == ["data/x.npz"]


def test_a_folder_is_its_arrays_by_name(tmp_path: Path) -> None:
    touch(tmp_path, "d/b.npy", "d/B.npz", "d/a.npz", "d/é.npz", "d/.hidden.npz", "d/readme.md")
    touch(tmp_path, "d/deeper/c.npz")
    assert found(ArrayFiles(path="d"), tmp_path) == ["d/B.npz", "d/a.npz", "d/b.npy", "d/é.npz"]


def test_images_are_found_in_sub_folders_by_path(tmp_path: Path) -> None:
    touch(tmp_path, "i/b/1.JPG", "i/a/2.png", "i/a/10.tiff", "i/z.webp", "i/a/deep/3.bmp")
    touch(tmp_path, "i/notes.txt", "i/.git/4.png", "i/a/.5.png")
    expected = ["i/a/10.tiff", "i/a/2.png", "i/a/deep/3.bmp", "i/b/1.JPG", "i/z.webp"]
    assert found(ImageFolder(path="i"), tmp_path) == expected


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/1.png")
    (tmp_path / "i").mkdir()
    (tmp_path / "i" / "cat").symlink_to(tmp_path / "elsewhere")
    assert found(ImageFolder(path="i"), tmp_path) == ["i/cat/1.png"]


def test_a_link_to_what_it_stands_in_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "i/1.png")
    (tmp_path / "i" / "loop").symlink_to(tmp_path / "i")
    assert "holds a link to what it stands in" in problem(ImageFolder(path="i"), tmp_path)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (ArrayFiles(path="data/recepts.npz"), "did you mean 'receipts.npz'?"),
        (ArrayFiles(path="dta/receipts.npz"), "did you mean 'data'?"),
        (ArrayFiles(path="data/zzzzzzzz.npz"), "there is: notes.txt, pictures, receipts.npz"),
        (ArrayFiles(path="data/notes.txt"), "'data/notes.txt' is no .npz file and no .npy file"),
        (ArrayFiles(path="data/pictures"), "for images write data: {images: data/pictures}"),
        (ArrayFiles(path="empty"), "the folder 'empty' has no .npz files and no .npy files"),
        (ImageFolder(path="data/picture"), "did you mean 'pictures'?"),
        (ImageFolder(path="data/notes.txt"), "'data/notes.txt' is no folder"),
        (ImageFolder(path="empty"), "the folder 'empty' has no images"),
    ],
    ids=str,
)
def test_what_is_missing_is_named_with_what_there_is(
    tmp_path: Path, data: DataSet, said: str
) -> None:
    touch(tmp_path, "data/receipts.npz", "data/notes.txt", "data/pictures/1.png")
    (tmp_path / "empty").mkdir()
    assert said in problem(data, tmp_path)


def test_a_function_is_its_source_and_then_its_files(tmp_path: Path) -> None:
    touch(tmp_path, "given.py", "b.bin", "a.bin")
    data = PythonFunction(function="given:f", files=("b.bin", "a.bin"))
    assert found(data, tmp_path) == ["given.py", "b.bin", "a.bin"]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("package", ["package/__init__.py"]),
        ("package.inner", ["package/inner.py", "package/__init__.py"]),
        ("bare.deep.inner", ["bare/deep/inner.py"]),
    ],
)
def test_packages_are_looked_into(tmp_path: Path, module: str, source: list[str]) -> None:
    touch(tmp_path, "package/__init__.py", "package/inner.py", "bare/deep/inner.py")
    assert found(PythonFunction(function=f"{module}:f"), tmp_path) == source


def test_a_module_is_found_without_being_run(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("raise RuntimeError")
    touch(tmp_path, "package/inner.py")
    sources = ["package/inner.py", "package/__init__.py"]
    assert found(PythonFunction(function="package.inner:f"), tmp_path) == sources


def test_what_is_beside_the_spec_comes_before_what_is_installed(tmp_path: Path) -> None:
    touch(tmp_path, "pytest.py")
    assert found(PythonFunction(function="pytest:f"), tmp_path) == ["pytest.py"]


def test_an_installed_module_is_found(tmp_path: Path) -> None:
    source = data_files(PythonFunction(function="engineforge.target:f"), tmp_path)[0]
    assert source.parts[-2:] == ("engineforge", "target.py")


def test_the_working_directory_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "specs/given.py", "elsewhere/given.py")
    monkeypatch.chdir(tmp_path / "elsewhere")
    data = PythonFunction(function="given:f")
    assert found(data, tmp_path / "specs") == ["given.py"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (PythonFunction(function="gven:f"), "'gven:f': no module 'gven' beside the spec or inst"),
        (PythonFunction(function="gven:f"), "did you mean 'given'?"),
        (PythonFunction(function="package.iner:f"), "no module 'iner' in 'package'"),
        (PythonFunction(function="package.iner:f"), "did you mean 'inner'?"),
        (PythonFunction(function="given.inner:f"), "no module 'inner' in 'given'"),
        (PythonFunction(function="bare:f"), "'bare' has no Python source"),
        (PythonFunction(function="random:f"), "'random' is also a module of Python's own"),
        (PythonFunction(function="given:f", files=("a.bim",)), "did you mean 'a.bin'?"),
        (PythonFunction(function="given:f", files=("bare",)), "'bare' is a folder"),
    ],
    ids=str,
)
def test_a_function_that_is_not_there(tmp_path: Path, data: DataSet, said: str) -> None:
    touch(tmp_path, "given.py", "package/__init__.py", "package/inner.py", "bare/readme.md")
    touch(tmp_path, "random.py", "a.bin")
    assert said in problem(data, tmp_path)
