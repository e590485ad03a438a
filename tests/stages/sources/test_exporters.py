"""What of a source of code is in its key: its files' names, and the versions of packages."""

from __future__ import annotations

from pathlib import Path

import pytest

from engineforge.spec.sources import NetworkSource, PytorchSource, SklearnSource
from engineforge.stages.sources.exporters import files_of, module_names, package_versions, recipe
from engineforge.stages.sources.locate import SourceMissing
from tests.samples.packages import install


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site"
    monkeypatch.syspath_prepend(folder)
    return folder


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def names(source: PytorchSource | NetworkSource, folder: Path) -> list[str]:
    return module_names(source, files_of(source, folder))


def test_names_are_below_the_folder_of_the_spec_wherever_that_is(tmp_path: Path) -> None:
    source = PytorchSource(
        module="sub.nets:make", files=("one.py", "./deep/two.py", "../three.py"), weights="w.pt"
    )
    for each in ("a", "b/c"):
        folder = tmp_path / each
        write(folder, "sub/nets.py", "sub/__init__.py", "one.py", "deep/two.py", "w.pt")
        write(folder.parent, "three.py")
        assert names(source, folder) == [
            "sub/nets.py",
            "sub/__init__.py",
            "one.py",
            "deep/two.py",
            "../three.py",
        ]


def test_names_of_a_package_as_the_module(tmp_path: Path) -> None:
    write(tmp_path, "nets/__init__.py", "__init__.py")
    source = NetworkSource(function="nets:make", files=("__init__.py",))
    assert names(source, tmp_path)[0] == "nets/__init__.py"


def test_names_of_what_is_installed_do_not_say_where(tmp_path: Path, site: Path) -> None:
    write(site, "nets_ef/__init__.py", "nets_ef/small.py")
    write(tmp_path, "one.py")
    source = NetworkSource(function="nets_ef.small:make", files=("one.py",))
    found = names(source, tmp_path)
    assert found == ["nets_ef/small.py", "nets_ef/__init__.py", "one.py"]


def test_files_that_change_names_are_another_export(tmp_path: Path) -> None:
    write(tmp_path, "nets.py", "one.py", "two.py")
    found = [
        recipe(source, tmp_path, files_of(source, tmp_path))
        for source in (
            PytorchSource(module="nets:make", files=("one.py", "two.py")),
            PytorchSource(module="nets:make", files=("two.py", "one.py")),
        )
    ]
    assert found[0] != found[1]


def test_the_version_of_a_named_package_is_in_the_recipe(tmp_path: Path, site: Path) -> None:
    write(tmp_path, "nets.py")
    install(site, "layers-ef", version="1.2.3")
    source = PytorchSource(module="nets:make", packages=("Layers_EF",))
    found = recipe(source, tmp_path, files_of(source, tmp_path))
    assert found["packages"] == {"layers-ef": "1.2.3"}


def test_versions_are_also_those_of_what_a_package_requires(site: Path) -> None:
    install(site, "layers-ef", requires=["deep-ef>=1", "absent-ef", "numpy", "more-ef; extra=='x'"])
    install(site, "deep-ef", version="7")
    install(site, "more-ef")
    for source in (
        PytorchSource(module="nets:make", packages=("layers-ef",)),
        NetworkSource(function="nets:make", packages=("layers-ef",)),
    ):
        assert package_versions(source) == {"deep-ef": "7", "layers-ef": "1.0"}


def test_what_is_known_anyway_is_exact_where_it_is_named() -> None:
    source = NetworkSource(function="nets:make", packages=("numpy",))
    assert list(package_versions(source)) == ["numpy"]


def test_other_sources_name_no_packages() -> None:
    assert package_versions(SklearnSource(model="m.pkl")) == {}


def test_a_named_package_that_is_not_here_is_told_with_how_to_install_it() -> None:
    source = PytorchSource(module="nets:make", packages=("absent-ef",))
    with pytest.raises(SourceMissing, match="'absent-ef' is not installed") as caught:
        package_versions(source)
    assert caught.value.hint == "python -m pip install absent-ef"


def test_a_named_package_that_is_run_from_where_it_is_written_is_refused(site: Path) -> None:
    install(site, "layers-ef", editable=True)
    source = PytorchSource(module="nets:make", packages=("layers-ef",))
    with pytest.raises(SourceMissing, match="its version does not say what it is"):
        package_versions(source)
