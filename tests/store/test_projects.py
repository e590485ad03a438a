"""Which projects build into a store: written when that changes, never misread."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engineforge.digest import digest_value
from engineforge.errors import StoreCorrupt
from engineforge.store.local import LocalStore
from engineforge.store.projects import Projects, Registered

_ONE, _OTHER = digest_value({"plan": 1}), digest_value({"plan": 2})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    LocalStore(tmp_path / "cache").create()
    return tmp_path / "cache"


def _file(root: Path) -> Path:
    (file,) = (root / "projects").iterdir()
    return file


def test_a_project_is_known_by_its_absolute_path_and_its_plans(root: Path) -> None:
    Projects(root).register(Path("specs"), {"net": _ONE})
    assert Projects(root).all() == [Registered(path=Path.cwd() / "specs", plans={"net": _ONE})]


def test_what_it_came_to_of_other_variants_is_what_it_was(root: Path) -> None:
    Projects(root).register(Path("specs"), {"net": _ONE, "other": _ONE})
    Projects(root).register(Path("specs"), {"net": _OTHER})
    (found,) = Projects(root).all()
    assert found.plans == {"net": _OTHER, "other": _ONE}


@pytest.mark.parametrize("plans", [{"net": _ONE, "other": _ONE}, {"net": _ONE}, {}])
def test_what_is_known_already_is_not_written(root: Path, plans: dict[str, str]) -> None:
    Projects(root).register(Path("specs"), {"net": _ONE, "other": _ONE})
    before = _file(root).stat()
    Projects(root).register(Path("specs"), dict.fromkeys(plans, _ONE))
    assert _file(root).stat() == before


def test_a_project_without_any_engine_yet_is_known(root: Path) -> None:
    Projects(root).register(Path("specs"), {})
    assert len(Projects(root).all()) == 1


def test_the_name_of_a_folder_need_not_be_text(root: Path) -> None:
    specs = Path(os.fsdecode(b"/\xff/specs"))
    Projects(root).register(specs, {})
    assert [each.path for each in Projects(root).all()] == [specs]


def test_a_project_is_forgotten_once(root: Path) -> None:
    Projects(root).register(Path("specs"), {})
    assert Projects(root).forget(Path("specs"))
    assert not Projects(root).forget(Path("specs"))
    assert Projects(root).all() == []


def test_one_truncated_or_flipped_anywhere_is_refused_until_its_project_builds(root: Path) -> None:
    Projects(root).register(Path("specs"), {"net": _ONE})
    file = _file(root)
    data = file.read_bytes()
    spoilt = [data[:end] for end in range(len(data))]
    spoilt += [data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :] for i in range(len(data))]
    for each in spoilt:
        file.write_bytes(each)
        with pytest.raises(StoreCorrupt, match="is not what was written"):
            Projects(root).all()
    Projects(root).register(Path("specs"), {"net": _ONE})
    assert file.read_bytes() == data


def test_one_under_the_name_of_another_is_refused(root: Path) -> None:
    Projects(root).register(Path("specs"), {})
    _file(root).rename(root / "projects" / f"{_ONE.hex}.json")
    with pytest.raises(StoreCorrupt):
        Projects(root).all()
