"""The builds that a store knows of, and the engines in it looked into."""

from __future__ import annotations

from pathlib import Path

import pytest

from engineforge.errors import UsageError
from engineforge.project.past import builds
from engineforge.project.subjects import Subjects
from engineforge.store.local import LocalStore
from engineforge.worker.latency import Asked
from tests.conftest import Forge
from tests.project.stored import put, put_build, put_latency

_LABEL = "net/fp32@ada"
_LAYERS = [{"name": "conv", "type": "Convolution"}]


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "cache")


def test_builds_are_in_the_order_of_time(store: LocalStore) -> None:
    for day in (3, 1, 2):
        put_build(store, _LABEL, f"2026-10-0{day}T00:00:00+00:00", seconds=day)
    (label,) = (found := builds(store, {}))
    assert label == _LABEL
    assert [each.seconds for each in found[label]] == [1, 2, 3]
    assert [each.first for each in found[label]] == [True, False, False]


def test_a_build_says_in_what_it_differs_from_the_one_before(store: LocalStore) -> None:
    put_build(store, _LABEL, "2026-10-01T00:00:00+00:00")
    put_build(store, _LABEL, "2026-10-02T00:00:00+00:00", recipe={"builder": {"tf32": False}})
    _, second = builds(store, {})[_LABEL]
    assert "recipe.builder.tf32 true → false" in [str(each) for each in second.changes]


@pytest.mark.parametrize(
    ("state", "warm"),
    [
        ("cold", False),
        ("from the shared one", True),
        ("from the entry's own", True),
        ("none: TensorRT-RTX has no timing caches", None),
    ],
)
def test_a_build_began_with_timings_or_without(
    store: LocalStore,
    state: str,
    warm: bool | None,
) -> None:
    put_build(store, _LABEL, "2026-10-01T00:00:00+00:00", timing_cache={"state": state})
    (found,) = builds(store, {})[_LABEL]
    assert found.began_warm is warm


def test_what_does_not_say_how_it_was_built_is_no_build(store: LocalStore) -> None:
    put(store, "engine", {"model": "m"}, {}, model_engine="an engine")
    assert builds(store, {}) == {}


def test_what_timing_caches_gave_is_in_the_report(built: Forge) -> None:
    store = LocalStore(built.cache)
    for day, seconds, state in ((1, 90.0, "cold"), (2, 30.0, "from the shared one")):
        about = {"state": state, "tactics_timed": int(seconds)}
        put_build(
            store, _LABEL, f"2026-10-0{day}T00:00:00+00:00", seconds=seconds, timing_cache=about
        )
    (found,) = built.run("report", "specs", "--json").json["timing_caches"]
    assert (found["label"], found["times_as_fast"]) == (_LABEL, 3.0)
    assert (found["tactics_timed_cold"], found["tactics_timed_warm"]) == (90, 30)


def test_a_measurement_that_no_check_asks_for_is_in_the_report(built: Forge) -> None:
    store = LocalStore(built.cache)
    (entry,) = store.entries("engine")
    put_latency(store, entry, 1.0, asked=Asked())
    put_latency(store, entry, 2.0, number=1, asked=Asked())
    put_latency(store, entry, 9.0, number=2, asked=Asked(streams=4))
    latency = built.run("report", "specs", "--json").json["variants"][0]["latency"]
    assert (latency["median_ms"], latency["p99_ms"], latency["passed"]) == (2.0, 4.0, None)
    assert (latency["gpu"], latency["shapes"]) == ("NVIDIA H200", {"x": [2, 4]})


def test_an_engine_has_layers_and_the_times_that_were_kept_last(store: LocalStore) -> None:
    entry = put_build(store, _LABEL, "2026-10-01T00:00:00+00:00", layers=_LAYERS)
    for number, ms in enumerate((2.0, 1.0)):
        profile = [{"name": "conv", "ms": ms, "share": 1.0}]
        asked = Asked(layers=True)
        put_latency(store, entry, ms, number=number, asked=asked, layers=profile)
    found = Subjects(store).of_entry(entry)
    assert (found.name, found.layers, found.no_layers) == (_LABEL, _LAYERS, None)
    assert found.profile == [{"name": "conv", "ms": 1.0, "share": 1.0}]
    assert found.latency is not None
    assert found.latency["latency_ms"]["median"] == 1.0


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"layers": []}, "TensorRT told nothing of its layers: 'profiling_verbosity' was none"),
        ({"load_test": {"loaded": False, "why": "no GPU"}}, "nothing has looked inside: no GPU"),
        ({}, "its entry has no layers.json"),
    ],
)
def test_an_engine_without_layers_says_why(
    store: LocalStore, more: dict[str, object], why: str
) -> None:
    found = Subjects(store).of_entry(put_build(store, _LABEL, "2026-10-01", **more))
    assert (found.layers, found.no_layers) == (None, why)


def test_a_model_is_no_engine(store: LocalStore) -> None:
    entry = put(store, "typed", {"model": "m"}, {}, model_onnx="a model")
    with pytest.raises(UsageError, match="is an entry of the stage 'typed', and no engine"):
        Subjects(store).of_entry(entry)
