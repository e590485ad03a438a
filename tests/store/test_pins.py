"""Pins: one a variant, and never misread."""

from __future__ import annotations

from pathlib import Path

import pytest

from engineforge.digest import digest_value
from engineforge.errors import StoreCorrupt
from engineforge.store.local import LocalStore
from engineforge.store.manifest import PlanRecord
from engineforge.store.pins import Pin, Pins

_PLANS = [{"plan": number} for number in range(2)]


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    made = LocalStore(tmp_path / "cache")
    with made.session() as session:
        for plan in _PLANS:
            record = PlanRecord(key=digest_value(plan), key_document=plan, entries={})
            made.put_record(record, session.folder)
    return made


def _pin(number: int, label: str = "net/fp32@ada") -> Pin:
    return Pin(label=label, plan=digest_value({"plan": number}), since="2026-01-01")


def _added(store: LocalStore, pin: Pin) -> bool:
    with store.session() as session:
        return Pins(store).add(pin, session)


def test_a_variant_is_held_at_one_plan(store: LocalStore) -> None:
    assert _added(store, _pin(0))
    assert _added(store, _pin(1))
    assert _added(store, _pin(0, "other/fp32@ada"))
    assert Pins(store).all() == [_pin(1), _pin(0, "other/fp32@ada")]


def test_what_was_not_carried_out_cannot_be_held(store: LocalStore) -> None:
    assert not _added(store, _pin(2))
    assert Pins(store).all() == []


def test_a_pin_is_removed_once(store: LocalStore) -> None:
    _added(store, _pin(0))
    assert Pins(store).remove("net/fp32@ada")
    assert not Pins(store).remove("net/fp32@ada")
    assert Pins(store).all() == []


def test_a_pin_truncated_or_flipped_anywhere_is_refused(store: LocalStore) -> None:
    _added(store, _pin(0))
    (path,) = (store.root / "pins").glob("*.json")
    data = path.read_bytes()
    spoilt = [data[:end] for end in range(len(data))]
    spoilt += [data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :] for i in range(len(data))]
    for each in spoilt:
        path.write_bytes(each)
        with pytest.raises(StoreCorrupt, match="is not what was written"):
            Pins(store).all()
