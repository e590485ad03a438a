"""The worker on this machine: what it refuses to file under a key, and what it never keeps."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from onnx import TensorProto, helper

from engineforge.project.plans import Selection
from engineforge.project.project import Project
from engineforge.worker.outcome import (
    Built,
    Event,
    Failed,
    Finished,
    Outcome,
    Reused,
    Skipped,
    Started,
)
from tests.conftest import SPEC, Forge, conditions
from tests.models import convnet, save
from tests.worker.conftest import litter


def _run(
    forge: Forge, observe: Callable[[Event], None], *, keep_going: bool = False
) -> list[Outcome]:
    """Plan and build all specs in this process, one at a time, and tell `observe` how it goes."""
    with Project(forge.specs, forge.cache, os.environ) as project:
        plan = project.plan([forge.specs], Selection())
        return project.build(plan, conditions(observe=observe, keep_going=keep_going))


def _when(phase: str, act: Callable[[], object]) -> Callable[[Event], None]:
    """Acts once, when a variant reaches this phase."""
    left = [act]

    def observe(event: Event) -> None:
        if isinstance(event, Started) and event.phase == phase and left:
            left.pop()()

    return observe


def _rewritten(forge: Forge) -> None:
    convnet(forge.model, seed=7)


def _swapped(forge: Forge) -> None:
    other = convnet(forge.root / "other.onnx", seed=7)
    other.replace(forge.model)


def _rewritten_and_its_times_put_back(forge: Forge) -> None:
    stat = forge.model.stat()
    convnet(forge.model, seed=7)
    os.utime(forge.model, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def _removed(forge: Forge) -> None:
    forge.model.unlink()


@pytest.mark.parametrize(
    ("phase", "change"),
    [
        ("importing", _rewritten),
        ("importing", _swapped),
        ("building", _rewritten),
        ("building", _rewritten_and_its_times_put_back),
        ("building", _removed),
    ],
)
def test_a_source_that_changes_under_its_build_fails_it_and_nothing_is_recorded(
    forge: Forge, phase: str, change: Callable[[Forge], None]
) -> None:
    (outcome,) = _run(forge, _when(phase, lambda: change(forge)))
    assert outcome == Failed(
        stage="onnx",
        error="'net.onnx' changed, or was touched, while it was being read; run again",
    )
    assert forge.engines() == []
    assert list(forge.cache.glob("plans-v1/*/*")) == []
    assert litter(forge.cache) == []


def test_external_data_that_changes_under_its_build_fails_it(forge: Forge) -> None:
    convnet(forge.model, external="weights.bin")
    weights = forge.model.with_name("weights.bin")

    def change() -> None:
        data = bytearray(weights.read_bytes())
        data[40] ^= 1
        weights.write_bytes(data)

    (outcome,) = _run(forge, _when("building", change))
    assert isinstance(outcome, Failed)
    assert "'weights.bin' changed, or was touched, while it was being read" in outcome.error
    assert forge.engines() == []


def test_what_was_imported_of_a_changed_source_is_never_filed_under_the_old_key(
    forge: Forge,
) -> None:
    before = forge.model.read_bytes()
    _run(forge, _when("importing", lambda: _rewritten(forge)))
    forge.model.write_bytes(before)
    rebuilt = forge.build().json["variants"][0]
    shutil.rmtree(forge.cache)
    clean = forge.build().json["variants"][0]
    assert rebuilt["engine"] == clean["engine"]


def test_a_change_of_the_file_that_another_variant_was_imported_from_fails_it(
    forge: Forge,
) -> None:
    # Both have the same content, so it is imported once, and the engine is built from that file.
    shutil.copy(forge.model, forge.model.with_name("copy.onnx"))
    copied = SPEC.replace("net.onnx", "copy.onnx").replace(
        "{precision", "{builder: {tf32: false}, precision"
    )
    forge.spec("other", copied)
    (forge.specs / "net.yaml").rename(forge.specs / "a-net.yaml")
    left = [lambda: _rewritten(forge)]

    def observe(event: Event) -> None:
        if isinstance(event, Started) and event.label.startswith("other/") and left:
            left.pop()()

    first, second = _run(forge, observe, keep_going=True)
    assert isinstance(first, Built)
    assert isinstance(second, Failed)
    assert "'net.onnx' changed, or was touched, while it was being read" in second.error


def test_after_a_change_under_the_build_the_next_run_builds_the_new_source(forge: Forge) -> None:
    _run(forge, _when("building", lambda: _rewritten(forge)))
    assert forge.build().outcomes() == {"fp32@ada": "built"}
    assert forge.build().outcomes() == {"fp32@ada": "reused"}


def _unbuildable(path: Path) -> None:
    """A model that ONNX takes and TensorRT does not: it has no Det. It has more nodes than others,
    and so its turn first."""
    names = ["d", *(f"y{number}" for number in range(9)), "y"]
    graph = helper.make_graph(
        [
            helper.make_node("Det", ["x"], ["d"], name="/det/Det"),
            *(helper.make_node("Relu", [a], [b]) for a, b in pairwise(names)),
        ],
        "determinant",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch"])],
    )
    save(graph, path)


def _failing(forge: Forge, name: str) -> None:
    _unbuildable(forge.specs / "models" / f"{name}.onnx")
    text = SPEC.replace("net.onnx", f"{name}.onnx").replace("image:", "x:")
    forge.spec(name, text.replace(", 3, 16, 16]", ", 4, 4]"))


def test_a_failure_is_never_cached(forge: Forge) -> None:
    _failing(forge, "bad")
    for _ in range(2):
        result = forge.run("build", "specs/bad.yaml", "--json")
        assert result.code == 1
        (variant,) = result.json["variants"]
        assert variant["outcome"] == "failed"
        assert variant["stage"] == "engine"
        assert "/det/Det" in variant["error"]
    assert list(forge.cache.glob("entries-v1/engine/*/*")) == []
    assert list(forge.cache.glob("plans-v1/*/*")) == []
    assert litter(forge.cache) == []


def test_a_failure_skips_what_was_not_started(forge: Forge) -> None:
    _failing(forge, "a-bad")
    failed, skipped = _run(forge, lambda _: None)
    assert isinstance(failed, Failed)
    assert isinstance(skipped, Skipped)
    assert "--keep-going" in skipped.why


def test_with_keep_going_a_failure_stops_no_other(forge: Forge) -> None:
    _failing(forge, "a-bad")
    failed, built = _run(forge, lambda _: None, keep_going=True)
    assert isinstance(failed, Failed)
    assert isinstance(built, Built)


def test_variants_of_a_model_that_cannot_be_imported_fail_alike(forge: Forge) -> None:
    forge.edit("net", "[ada]", "[ada, ampere]")
    outcomes = _run(forge, _when("importing", forge.model.unlink), keep_going=True)
    assert [type(each) for each in outcomes] == [Failed, Failed]
    assert len({each.error for each in outcomes if isinstance(each, Failed)}) == 1


def test_each_variant_is_told_of_from_its_start_to_its_end(forge: Forge) -> None:
    events: list[Event] = []
    _run(forge, events.append)
    *phases, last = events
    assert [each.phase for each in phases if isinstance(each, Started)] == [
        "importing",
        "building",
        "publishing",
    ]
    assert isinstance(last, Finished)
    assert isinstance(last.outcome, Built)


def test_an_entry_found_while_it_was_planned_is_not_built_again(forge: Forge) -> None:
    # Another process built it between this one's planning and its building.
    def build_it_there() -> None:
        other = forge.process("build", "specs")
        other.communicate(timeout=60)
        assert other.returncode == 0

    (outcome,) = _run(forge, _when("importing", build_it_there))
    assert isinstance(outcome, Reused)
    assert len(forge.engines()) == 1
