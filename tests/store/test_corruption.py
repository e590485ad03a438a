"""A cache that something damaged: found by the next build and by `verify`, said, and made good."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Forge

Spoil = Callable[[Path], None]


def _flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(data)


def _flipped_with_its_times_put_back(path: Path) -> None:
    stat = path.stat()
    _flipped(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    path.chmod(stat.st_mode)


def _last_byte_cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def _emptied(path: Path) -> None:
    os.truncate(path, 0)


def _one_byte_more(path: Path) -> None:
    path.chmod(0o644)
    with path.open("ab") as file:
        file.write(b"\n")


def _gone(path: Path) -> None:
    path.unlink()


def _quarantined(forge: Forge) -> list[str]:
    folder = forge.cache / "quarantine"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def _record(forge: Forge) -> Path:
    (found,) = forge.cache.glob("plans-v1/??/*.json")
    return found


@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        (_flipped, "model.engine"),
        (_flipped, "build.log"),
        (_flipped, "manifest.json"),
        (_flipped_with_its_times_put_back, "model.engine"),
        (_last_byte_cut, "model.engine"),
        (_last_byte_cut, "manifest.json"),
        (_emptied, "model.engine"),
        (_one_byte_more, "build.log"),
        (_gone, "model.engine"),
        (_gone, "manifest.json"),
    ],
)
def test_a_damaged_engine_entry_is_said_quarantined_and_built_again(
    built: Forge, spoil: Spoil, name: str
) -> None:
    (engine,) = built.engines()
    spoil(engine.with_name(name))
    result = built.build()
    assert result.code == 0
    assert result.outcomes() == {"fp32@ada": "built"}
    (fault,) = result.json["faults"]
    assert "is corrupt" in fault
    assert fault in result.err
    assert _quarantined(built) == [engine.parent.name]
    assert built.run("verify").code == 0


@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        (_flipped, "model.engine"),
        (_flipped, "build.log"),
        (_flipped, "manifest.json"),
        (_gone, "model.engine"),
    ],
)
def test_verify_reports_a_damaged_entry_and_the_next_build_makes_it_good(
    built: Forge, spoil: Spoil, name: str
) -> None:
    (engine,) = built.engines()
    spoil(engine.with_name(name))
    result = built.run("verify", "--json")
    assert result.code == 4
    assert len(result.json["faults"]) == 1
    assert _quarantined(built) == [engine.parent.name]
    assert built.run("verify").code == 0, "it is out of the way"
    assert built.build().outcomes() == {"fp32@ada": "built"}


@pytest.mark.parametrize("spoil", [_flipped, _flipped_with_its_times_put_back])
def test_a_flipped_byte_is_noticed_without_an_index(built: Forge, spoil: Spoil) -> None:
    spoil(built.engines()[0])
    (built.cache / "index").unlink()
    result = built.build()
    assert result.outcomes() == {"fp32@ada": "built"}
    assert len(result.json["faults"]) == 1


def test_verify_of_a_sound_cache_says_how_much_it_hashed(built: Forge) -> None:
    result = built.run("verify", "--json")
    assert result.code == 0
    # The canonical model; the engine and its log.
    hashed = sum(
        path.stat().st_size
        for path in built.cache.glob("entries-v1/*/*/*/*")
        if path.name != "manifest.json"
    )
    assert result.json == {"entries": 2, "bytes_hashed": hashed, "faults": []}


@pytest.mark.parametrize("spoil", [_flipped_with_its_times_put_back, _last_byte_cut, _gone])
def test_a_damaged_plan_record_is_written_again_and_rebuilds_nothing(
    built: Forge, spoil: Spoil
) -> None:
    record = _record(built)
    before = record.read_bytes()
    spoil(record)
    result = built.build()
    assert result.code == 0
    assert result.outcomes() == {"fp32@ada": "reused"}
    assert len(result.json["faults"]) == (0 if spoil is _gone else 1)
    assert record.read_bytes() == before
    assert built.run("verify").code == 0


@pytest.mark.parametrize("spoil", [_flipped, _emptied])
def test_verify_reports_a_damaged_plan_record(built: Forge, spoil: Spoil) -> None:
    record = _record(built)
    spoil(record)
    assert built.run("verify").code == 4
    assert _quarantined(built) == [record.name]
    assert built.build().outcomes() == {"fp32@ada": "reused"}
    assert record.exists()


@pytest.mark.parametrize(
    ("spoil", "name"),
    [(_flipped, "model.onnx"), (_gone, "model.onnx"), (_last_byte_cut, "manifest.json")],
)
def test_a_damaged_import_is_never_built_from(built: Forge, spoil: Spoil, name: str) -> None:
    (model,) = built.cache.glob("entries-v1/onnx/*/*/model.onnx")
    before = model.read_bytes()
    spoil(model.with_name(name))
    built.edit("net", "[ada]", "[ada, ampere]")
    result = built.build()
    assert result.outcomes() == {"fp32@ada": "reused", "fp32@ampere": "built"}
    assert len(result.json["faults"]) == 1
    assert _quarantined(built) == [model.parent.name]
    assert model.read_bytes() == before
    assert built.run("verify").code == 0


def test_damage_of_one_entry_rebuilds_no_other(forge: Forge) -> None:
    forge.edit("net", "[ada]", "[ada, ampere]")
    first = forge.build()
    broken = first.json["variants"][0]
    _flipped(Path(broken["path"]))
    result = forge.build()
    assert result.outcomes() == {"fp32@ada": "built", "fp32@ampere": "reused"}


def test_plan_says_that_a_damaged_entry_is_missing(built: Forge) -> None:
    _flipped(built.engines()[0])
    (planned,) = built.plan()
    assert planned["state"] == "stale"
    assert [reason["kind"] for reason in planned["reasons"]] == ["entry-missing"]


def test_show_does_not_show_a_damaged_entry(built: Forge) -> None:
    _flipped(built.engines()[0])
    result = built.run("show", "specs", "--json")
    assert result.json == []
    assert "is corrupt" in result.err


def test_the_damaged_engine_is_kept_for_whoever_wants_to_see_it(built: Forge) -> None:
    (engine,) = built.engines()
    _flipped(engine)
    damaged = engine.read_bytes()
    built.build()
    assert (built.cache / "quarantine" / engine.parent.name / engine.name).read_bytes() == damaged


def test_damage_twice_is_quarantined_twice(built: Forge) -> None:
    for _ in range(2):
        _flipped(built.engines()[0])
        assert built.build().outcomes() == {"fp32@ada": "built"}
    name = built.engines()[0].parent.name
    assert _quarantined(built) == [name, f"{name}.1"]
