"""What the code of people may import of what is installed."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from engineforge.errors import EngineForgeError
from engineforge.samples.imports import Packages
from engineforge.samples.user_code import UserCode
from tests.samples.packages import install


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path; what is imported from there is forgotten afterwards."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    yield folder
    for name, module in [*sys.modules.items()]:
        if (getattr(module, "__file__", None) or "").startswith(str(folder)):
            del sys.modules[name]


def run(
    folder: Path,
    text: str,
    *named: str,
    own: tuple[str, ...] = (),
    function: str = "nets:make",
    files: tuple[Path, ...] = (),
) -> object:
    (folder / "nets.py").write_text(text)
    user = UserCode.find(
        function,
        folder,
        (folder / "nets.py", *files),
        raises=EngineForgeError,
        listed="under 'pytorch'",
        packages=Packages(named=named, own=own),
    )
    with user.imported() as made, user.running():
        return made()


def problem(folder: Path, text: str, *named: str, own: tuple[str, ...] = ()) -> str:
    with pytest.raises(EngineForgeError) as caught:
        run(folder, text, *named, own=own)
    return f"{caught.value.args[0]}\nhint: {caught.value.hint}"


_TEXT = "import layers_ef\ndef make():\n    return layers_ef.WIDTH\n"
_LATE = "def make():\n    import layers_ef\n    return layers_ef.WIDTH\n"
_BY_NAME = "import importlib\ndef make():\n    return importlib.import_module('layers_ef').WIDTH\n"


@pytest.mark.parametrize("text", [_TEXT, _LATE, _BY_NAME], ids=["at once", "late", "by name"])
def test_a_package_that_is_not_named_is_refused(text: str, tmp_path: Path, site: Path) -> None:
    install(site, "layers-ef", "WIDTH = 3\n")
    assert problem(tmp_path, text) == (
        "'nets:make' imports 'layers_ef', and another version of that would go unseen\n"
        "hint: name it under 'pytorch': packages: [layers-ef]"
    )


@pytest.mark.parametrize("name", ["layers-ef", "Layers_EF"])
def test_a_package_that_is_named_may_be_imported(name: str, tmp_path: Path, site: Path) -> None:
    install(site, "layers-ef", "WIDTH = 3\n")
    assert run(tmp_path, _TEXT, name) == 3


def test_what_a_named_package_requires_may_be_imported(tmp_path: Path, site: Path) -> None:
    install(site, "layers-ef", "import deep_ef\nWIDTH = 3\n", requires=["deep_ef>=1; x == 'y'"])
    install(site, "deep-ef")
    assert run(tmp_path, _TEXT, "layers-ef") == 3


def test_what_only_an_extra_of_a_named_package_takes_is_refused(tmp_path: Path, site: Path) -> None:
    install(site, "layers-ef", "import deep_ef\nWIDTH = 3\n", requires=["deep-ef; extra == 'x'"])
    install(site, "deep-ef")
    assert "packages: [deep-ef]" in problem(tmp_path, _TEXT, "layers-ef")


def test_all_that_are_missing_are_named_at_once(tmp_path: Path, site: Path) -> None:
    install(site, "layers-ef", "import deep_ef\nWIDTH = 3\n")
    install(site, "deep-ef")
    assert problem(tmp_path, _TEXT).endswith("packages: [deep-ef, layers-ef]")


def test_what_the_key_knows_anyway_may_be_imported(tmp_path: Path, site: Path) -> None:
    install(site, "layers-ef", "WIDTH = 3\n")
    assert run(tmp_path, _TEXT, own=("layers-ef",)) == 3


def test_what_another_library_looks_for_by_itself_is_not_put_down_to_it(
    tmp_path: Path, site: Path
) -> None:
    install(site, "layers-ef")
    (tmp_path / "nets.py").write_text("def make(): ...\n")
    user = UserCode.find(
        "nets:make",
        tmp_path,
        [tmp_path / "nets.py"],
        raises=EngineForgeError,
        listed="under 'pytorch'",
        packages=Packages(named=(), own=()),
    )
    with user.imported():
        __import__("layers_ef")


def test_a_module_on_the_path_that_is_of_no_package_is_refused(tmp_path: Path, site: Path) -> None:
    (site / "layers_ef.py").write_text("WIDTH = 3\n")
    assert problem(tmp_path, _TEXT, "layers-ef") == (
        "'nets:make' imports 'layers_ef', and a change of that would go unseen\n"
        "hint: put 'layers_ef.py' beside the spec, and name what is in it under 'pytorch': "
        "files: […]"
    )


def test_a_package_that_is_run_from_where_it_is_written_is_refused(
    tmp_path: Path, site: Path
) -> None:
    install(site, "layers-ef", "WIDTH = 3\n", editable=True)
    assert "a change of that would go unseen" in problem(tmp_path, _TEXT)


def test_a_function_on_the_path_is_known_by_its_own_file(tmp_path: Path, site: Path) -> None:
    (site / "layers_ef.py").write_text("def make():\n    return 3\n")
    files = (site / "layers_ef.py",)
    assert run(tmp_path, "", function="layers_ef:make", files=files) == 3


def test_a_function_on_the_path_imports_nothing_else_from_there(tmp_path: Path, site: Path) -> None:
    (site / "layers_ef").mkdir()
    (site / "layers_ef" / "__init__.py").write_text("from .deep import make\n")
    (site / "layers_ef" / "deep.py").write_text("def make(): ...\n")
    files = (site / "layers_ef" / "__init__.py",)
    with pytest.raises(EngineForgeError, match="imports 'layers_ef', and a change of that"):
        run(tmp_path, "", function="layers_ef:make", files=files)


def test_a_package_that_is_missing_may_be_looked_for(tmp_path: Path) -> None:
    text = "try:\n    import layers_ef\nexcept ImportError:\n    pass\ndef make():\n    return 3\n"
    assert run(tmp_path, text) == 3


def test_pythons_own_modules_may_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generated = sysconfig._get_sysconfigdata_name()  # type: ignore[attr-defined]
    for name in ("wave", generated):
        monkeypatch.delitem(sys.modules, name, raising=False)
    text = f"import wave\ndef make():\n    return __import__('{generated}').__name__\n"
    assert run(tmp_path, text) == generated


def test_nothing_is_watched_afterwards(tmp_path: Path) -> None:
    before = [*sys.meta_path]
    run(tmp_path, "def make(): ...\n")
    assert sys.meta_path == before
