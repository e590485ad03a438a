"""Blocks of known specs: they give back what they were made of, and hold only while all does."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engineforge.store.known import STAT, Block, Known, Variant

_TEXT = st.text(st.characters(exclude_characters="\t\n\0", exclude_categories=["Cs"]), min_size=1)
_KEYS = st.binary(min_size=32, max_size=32).filter(any)
_FILES = st.lists(_TEXT, min_size=1, max_size=4).map(tuple)
_BUILT = st.builds(Variant, _TEXT, _TEXT, _KEYS, engine=_KEYS, files=_FILES)
_UNFIT = st.builds(Variant, _TEXT, _TEXT, _KEYS, unfit=_TEXT, stages=_FILES)


@st.composite
def _known(draw: st.DrawFn) -> Known:
    depends = draw(st.lists(_TEXT, max_size=3))
    variants = draw(st.lists(st.one_of(_BUILT, _UNFIT), min_size=1, max_size=4))
    files = 1 + len(depends) + sum(1 + len(each.files) for each in variants if each.engine)
    number = st.integers(-(1 << 63), (1 << 63) - 1)
    stats = draw(st.lists(number, min_size=STAT * files, max_size=STAT * files))
    asks = draw(st.one_of(st.just(""), _TEXT))
    return Known(draw(_TEXT), asks, depends, variants, array("q", stats))


def _plain(known: Known) -> object:
    names = Variant.__slots__
    variants = [{name: getattr(each, name) for name in names} for each in known.variants]
    return known.spec, known.asks, list(known.depends), variants, known.stats


@settings(deadline=None, database=None)
@given(st.lists(_known(), min_size=1, max_size=5))
def test_a_block_gives_back_the_specs_that_it_was_made_of(known: list[Known]) -> None:
    assert all(each.can_be_written for each in known)
    assert [_plain(each) for each in Block(Block.of(known)).all()] == list(map(_plain, known))


@pytest.mark.parametrize("name", ["two\nlines", "a\ttab", "a\0null", "\udcff"])
@pytest.mark.parametrize("where", ["spec", "depends", "target", "unfit", "files"])
def test_names_that_a_block_cannot_hold_are_told(name: str, where: str) -> None:
    def made(called: str) -> Known:
        names = {each: called if each == where else "x" for each in ("target", "unfit", "files")}
        variant = Variant(
            "v", names["target"], bytes(32), unfit=names["unfit"], files=(names["files"],)
        )
        depends = [called if where == "depends" else "x"]
        return Known(called if where == "spec" else "x", "", depends, [variant], array("q"))

    assert made("fine").can_be_written
    assert not made(name).can_be_written


_PLANS = [bytes([each]) * 32 for each in (1, 2, 3)]


def _stat(path: Path) -> list[int]:
    found = path.stat()
    times = [found.st_mtime_ns, found.st_ctime_ns]
    return [found.st_dev, found.st_ino, found.st_size, *times]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.yaml", "b.yaml", "models/a.onnx", "models/b.onnx"):
        (tmp_path / "specs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "specs" / name).write_text(name)
    return tmp_path


def _block(folder: Path, *, unfit: bool = False) -> Block:
    """Two specs of one variant each; with `unfit`, the second was never built."""
    known = []
    for name, plan in zip("ab", _PLANS, strict=False):
        engine = bytes(reversed(range(1, 33)))[:31] + plan[:1]
        files = [folder / "specs" / f"{name}.yaml", folder / "specs" / "models" / f"{name}.onnx"]
        if unfit and name == "b":
            variant = Variant("fp32", "ada", plan, unfit="no GPU", stages=("engine",))
        else:
            record = folder / "cache" / "plans-v1" / plan.hex()[:2] / f"{plan.hex()}.json"
            entry = folder / "cache" / "entries-v1" / "engine" / engine.hex()[:2] / engine.hex()
            files += [record, entry / "manifest.json", entry / "model.engine"]
            for each in files[2:]:
                each.parent.mkdir(parents=True, exist_ok=True)
                each.write_text(str(each))
            names = ("manifest.json", "model.engine")
            variant = Variant("fp32", "ada", plan, engine=engine, files=names)
        stats = array("q", [number for each in files for number in _stat(each)])
        known.append(Known(f"{name}.yaml", "", [f"models/{name}.onnx"], [variant], stats))
    return Block(Block.of(known))


def _holds(block: Block, folder: Path) -> bool:
    return block.holds(str(folder / "specs"), str(folder / "cache"), lambda _: True)


def _which(block: Block, folder: Path) -> list[bool]:
    return block.which_hold(str(folder / "specs"), str(folder / "cache"), lambda _: True)


def _touched(path: Path) -> None:
    os.utime(path)


def _removed(path: Path) -> None:
    path.unlink()


def _longer(path: Path) -> None:
    found = path.stat()
    path.write_text("another text, which is longer than the one that it had")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def _in_place(path: Path) -> None:
    path.with_suffix(".new").write_bytes(path.read_bytes())
    path.with_suffix(".new").replace(path)


@pytest.mark.parametrize("change", [_touched, _removed, _longer, _in_place])
def test_of_any_file_any_change_is_seen_and_of_which_spec(
    folder: Path, change: Callable[[Path], None]
) -> None:
    _block(folder)
    files = sorted(each for each in folder.rglob("*") if each.is_file())
    assert len(files) == 10
    unseen = []
    for file in files:
        block = _block(folder)
        assert _holds(block, folder)
        assert _which(block, folder) == [True, True]
        before = file.read_bytes()
        change(file)
        if _holds(block, folder) or sorted(_which(block, folder)) != [False, True]:
            unseen.append(file)
        file.write_bytes(before)
    assert unseen == []


def test_what_was_never_built_and_came_from_elsewhere_is_seen(folder: Path) -> None:
    block = _block(folder, unfit=True)
    assert block.unfit
    assert _holds(block, folder)
    record = folder / "cache" / "plans-v1" / "02" / f"{_PLANS[1].hex()}.json"
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    assert not _holds(block, folder)
    assert _which(block, folder) == [True, False]


def test_what_is_asked_again_must_be_answered_as_before(folder: Path) -> None:
    one, two = _block(folder).all()
    block = Block(Block.of([Known(one.spec, "who?", one.depends, one.variants, one.stats), two]))
    for answer in (True, False):
        where = (str(folder / "specs"), str(folder / "cache"))
        assert block.holds(*where, lambda asks, answer=answer: answer and asks == "who?") == answer  # type: ignore[misc]
        assert block.which_hold(*where, lambda _, answer=answer: answer) == [answer, True]  # type: ignore[misc]
