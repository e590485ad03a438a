"""Measurements of engines in the store: under which key, in which order, and which one counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engineforge.backends.gpu import HostGpu, visible
from engineforge.cli.arguments import parser
from engineforge.cli.bench import asked_for
from engineforge.digest import digest_bytes, digest_value, document
from engineforge.plan.keys import LatencyKey
from engineforge.store.local import LocalStore
from engineforge.worker.latency import LATENCY, Asked, Measurements
from tests.backends.machines import OTHER_UUID, h200, machine

_ENGINE = digest_bytes(b"engine")


def gpu(**changes: Any) -> HostGpu:  # noqa: ANN401
    (found,) = visible(machine(h200(**changes)))
    return found


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    made = LocalStore(tmp_path / "cache")
    made.create()
    yield made
    assert made.faults == []


def put(store: LocalStore, key: LatencyKey) -> None:
    with store.session() as session, session.staged() as staged:
        (staged / "measured.json").write_text("{}")
        _, ours = store.publish(
            staged, stage=LATENCY, key_document=document(key), digests={}, record={}
        )
        assert ours


def numbered(number: int, asked: Asked | None = None) -> LatencyKey:
    return dataclasses.replace((asked or Asked()).key(_ENGINE, gpu()), number=number)


def test_which_gpu_of_a_kind_it_was_is_in_no_key() -> None:
    assert Asked().key(_ENGINE, gpu()) == Asked().key(_ENGINE, gpu(uuid=OTHER_UUID))


def test_the_kind_of_gpu_and_the_driver_are_in_the_key() -> None:
    one = Asked().key(_ENGINE, gpu())
    driver = dataclasses.replace(gpu(), driver="580.200.00")
    keys = [one, Asked().key(_ENGINE, gpu(name="NVIDIA H100")), Asked().key(_ENGINE, driver)]
    assert len({digest_value(each) for each in keys}) == 3


_OTHERS: dict[str, Any] = {
    "profile": 1,
    "at": "max",
    "shapes": {"x": [8, 3]},
    "warm_up_ms": 100,
    "duration_s": 0.3,
    "iterations": 20,
    "streams": 2,
    "cuda_graph": True,
    "transfers": False,
    "seed": 1,
    "layers": True,
}


@pytest.mark.parametrize("field", [each.name for each in dataclasses.fields(Asked)])
def test_all_that_is_asked_is_in_the_key_but_the_times_of_layers(field: str) -> None:
    other = dataclasses.replace(Asked(), **{field: _OTHERS[field]})
    same = digest_value(other.key(_ENGINE, gpu())) == digest_value(Asked().key(_ENGINE, gpu()))
    assert same == (field == "layers")
    assert Asked().is_of(document(other.key(_ENGINE, gpu()))) == (field == "layers")
    assert other.request()[field] == _OTHERS[field]


def test_bench_without_options_measures_what_a_check_does() -> None:
    assert asked_for(parser().parse_args(["bench", "specs"])) == Asked()
    assert asked_for(parser().parse_args(["bench", "specs", "--at", "max"])) == Asked(at="max")


def test_bench_of_other_shapes_finds_their_profile() -> None:
    asked = asked_for(parser().parse_args(["bench", "specs", "--shapes", "x=8x3"]))
    assert (asked.profile, asked.shapes) == (None, {"x": [8, 3]})


def test_an_empty_store_has_no_measurement(store: LocalStore) -> None:
    found = Measurements(store)
    assert found.last(numbered(0)) is None
    assert found.next(numbered(0)).number == 0


def test_the_highest_number_counts_whatever_is_gone_before_it(store: LocalStore) -> None:
    for number in (2, 11, 3):
        put(store, numbered(number))
    put(store, numbered(40, Asked(at="max")))
    found = Measurements(store)
    assert found.last(numbered(0)) == numbered(11)
    assert found.next(numbered(0)) == numbered(12)


def test_what_this_process_adds_counts_at_once(store: LocalStore) -> None:
    found = Measurements(store)
    assert found.last(numbered(0)) is None
    put(store, numbered(0))
    found.add(numbered(0))
    assert found.last(numbered(0)) == numbered(0)
    assert found.next(numbered(0)) == numbered(1)


def test_a_number_that_another_process_took_meanwhile_is_not_taken_again(
    store: LocalStore,
) -> None:
    put(store, numbered(0))
    found = Measurements(store)
    assert found.last(numbered(0)) == numbered(0)
    put(store, numbered(1))
    assert found.next(numbered(0)) == numbered(2)
