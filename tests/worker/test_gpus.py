"""The worker on GPUs that are pretended: leases, what goes on beside them, and what ends them.

Engines are built by TensorRT-RTX, which needs no GPU; only the load test is not the real one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from engineforge.backends.gpu import HostGpu
from engineforge.project.plans import Selection
from engineforge.project.project import Project
from engineforge.store.local import LocalStore
from engineforge.worker.outcome import (
    Built,
    Event,
    Failed,
    Finished,
    Outcome,
    Reused,
    Skipped,
    Started,
    Waiting,
)
from tests.conftest import Forge, conditions
from tests.gpus import host_gpu
from tests.worker.conftest import litter

ONE, OTHER, THIRD = (host_gpu(index=index) for index in range(3))
BOTH = (ONE, OTHER)

# Takes a while, and says which GPU the process sees; on those in a file it ends otherwise.
_LOAD_TEST = """\
import os, signal, sys, time, types
def load_test(request):
    from engineforge.errors import EngineForgeError
    shown = os.environ["CUDA_VISIBLE_DEVICES"]
    time.sleep(0.3)
    if shown in {fails!r}:
        raise EngineForgeError("the GPU fell off the bus")
    if shown in {killed!r}:
        os.kill(os.getpid(), signal.SIGKILL)
    return {{"sees": shown}}
module = types.ModuleType("engineforge.runtime.operations")
module.OPERATIONS = {{"load-test": load_test}}
sys.modules[module.__name__] = module
"""
_HOLD = """
import sys
from pathlib import Path
from engineforge.store.local import LocalStore
with LocalStore(Path(sys.argv[1])).session() as session:
    with session.leasing(sys.argv[2:], "PID 1 on nowhere", lambda _: None):
        print("held", flush=True)
        sys.stdin.read()
"""
_SPEC = """\
model:
  source: {path: models/net.onnx}
inputs:
  image: {min: [1, 3, 16, 16], opt: [4, 3, 16, 16], max: [8, 3, 16, 16]}
targets: [ada]
variants:
"""


class Host:
    """A project whose variants are built on GPUs that are pretended: by variant, or on both."""

    def __init__(self, forge: Forge) -> None:
        self.forge = forge
        self.events: list[Event] = []
        self._loads: Path | None = None
        self._root = Path(__file__).parents[2]

    def variants(self, *names: str) -> None:
        """Each differs from the others in an option that reaches its key."""
        lines = [
            f"  {name}: {{precision: fp32, builder: {{max_aux_streams: {number}}}}}\n"
            for number, name in enumerate(names)
        ]
        self.forge.spec("net", _SPEC + "".join(lines))

    def loads(self, *, fails: Sequence[str] = (), killed: Sequence[str] = ()) -> None:
        """Engines load, but not on these GPUs."""
        self._loads = self.forge.root / "site"
        self._loads.mkdir(exist_ok=True)
        text = _LOAD_TEST.format(fails=[*fails], killed=[*killed])
        (self._loads / "sitecustomize.py").write_text(text)

    def build(
        self,
        gpus: Mapping[str, tuple[HostGpu, ...]] | None = None,
        *,
        observe: Callable[[Event], None] = lambda _: None,
        jobs: int = 2,
        keep_going: bool = True,
    ) -> dict[str, Outcome]:
        """What became of each variant."""

        def observed(event: Event) -> None:
            self.events.append(event)
            observe(event)

        path = [self._root] if self._loads is None else [self._loads, self._root]
        how = conditions(
            jobs=jobs,
            keep_going=keep_going,
            environment={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))},
            observe=observed,
        )
        with Project(self.forge.specs, self.forge.cache, os.environ) as project:
            plan = project.plan([self.forge.specs], Selection())
            for index, each in enumerate(plan.variants):
                if each.job is not None:
                    on = BOTH if gpus is None else gpus.get(each.variant, ())
                    plan.variants[index] = replace(each, job=replace(each.job, gpus=on))
            outcomes = project.build(plan, how)
            return {v.variant: each for v, each in zip(plan.variants, outcomes, strict=True)}

    def records(self) -> list[dict[str, Any]]:
        entries = LocalStore(self.forge.cache).entries("engine")
        return [dict(entry.manifest.record) for entry in entries]

    def leases(self) -> list[tuple[str, datetime, datetime]]:
        """Of each engine that was built: the GPU, and from when to when it was leased."""
        found = [record["gpu"] for record in self.records()]
        times = [[datetime.fromisoformat(each) for each in gpu["leased"]] for gpu in found]
        return [(gpu["uuid"], *each) for gpu, each in zip(found, times, strict=True)]

    def locks(self) -> list[str]:
        return [each.name for each in (self.forge.cache / "staging" / "locks").glob("lease-*")]


@pytest.fixture
def host(forge: Forge) -> Host:
    return Host(forge)


def _when(wanted: Callable[[Event], bool], act: Callable[[], object]) -> Callable[[Event], None]:
    """Acts once, at the first event that is wanted."""
    left = [act]

    def observe(event: Event) -> None:
        if wanted(event) and left:
            left.pop()()

    return observe


def _waits_for_a_gpu(event: Event) -> bool:
    return isinstance(event, Waiting) and event.stage == "gpu"


def test_no_lease_of_a_gpu_overlaps_another_and_both_gpus_are_used_at_once(host: Host) -> None:
    host.variants(*"abcdef")
    host.loads()
    outcomes = host.build(jobs=6)
    assert all(isinstance(each, Built) for each in outcomes.values()), outcomes
    leases = sorted(host.leases(), key=lambda each: each[1])
    assert {uuid for uuid, _, _ in leases} == {"GPU-0", "GPU-1"}
    for gpu in BOTH:
        mine = [(since, until) for uuid, since, until in leases if uuid == gpu.uuid]
        assert all(a[1] <= b[0] for a, b in pairwise(mine))
    first, second = leases[0], next(each for each in leases if each[0] != leases[0][0])
    assert second[1] < first[2], "the second GPU waited for the first"


def test_a_build_sees_the_gpu_that_it_leases_and_no_other(host: Host) -> None:
    host.variants(*"abcd")
    host.loads()
    host.build(jobs=4)
    for record in host.records():
        assert record["load_test"] == {"sees": record["gpu"]["uuid"]}


def test_the_manifest_tells_the_gpu_and_what_it_was_doing(host: Host) -> None:
    host.loads()
    host.variants("a")
    host.build({"a": (ONE,)})
    (record,) = host.records()
    about = {key: value for key, value in record["gpu"].items() if key != "leased"}
    assert about["uuid"] == "GPU-0"
    assert about["name"] == "NVIDIA H200"
    assert about["driver"] == "580.159.04"
    assert record["gpu_at_start"].keys() == {"conditions", "others"}


def test_a_variant_uses_only_the_gpus_that_it_can_be_built_on(host: Host) -> None:
    host.variants(*"abc")
    host.loads()
    host.build({"a": (ONE,), "b": (ONE,), "c": (OTHER,)}, jobs=3)
    assert sorted(uuid for uuid, _, _ in host.leases()) == ["GPU-0", "GPU-0", "GPU-1"]


def test_stages_without_a_gpu_go_on_while_all_gpus_are_taken(host: Host) -> None:
    # One thread: it must not be the one that waits.
    host.variants("a", "b")
    host.loads()
    store = LocalStore(host.forge.cache)
    with store.session() as session, ExitStack() as held:
        held.enter_context(session.leasing(["GPU-0"], "somebody", lambda _: None))
        built = _when(
            lambda event: isinstance(event, Finished) and "/b@" in event.label, held.close
        )
        outcomes = host.build({"a": (ONE,)}, observe=built, jobs=1)
    assert [type(each) for each in outcomes.values()] == [Built, Built]
    finished = [event.label for event in host.events if isinstance(event, Finished)]
    assert finished == ["net/b@ada", "net/a@ada"]
    waits = [event for event in host.events if isinstance(event, Waiting)]
    assert waits == [Waiting("net/a@ada", "gpu", "somebody")]


def test_the_lease_of_a_killed_process_goes_to_who_waits(host: Host) -> None:
    host.variants("a")
    host.loads()
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(host.forge.cache), "GPU-0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    killed = _when(_waits_for_a_gpu, lambda: holder.send_signal(signal.SIGKILL))
    outcomes = host.build({"a": (ONE,)}, observe=killed)
    holder.communicate()
    assert holder.returncode == -signal.SIGKILL
    assert isinstance(outcomes["a"], Built)
    assert Waiting("net/a@ada", "gpu", "PID 1 on nowhere") in host.events


def test_a_build_that_is_killed_on_one_gpu_leaves_the_other_unharmed(host: Host) -> None:
    host.variants("a", "b")
    host.loads(killed=["GPU-0"])
    outcomes = host.build({"a": (ONE,), "b": (OTHER,)})
    assert isinstance(outcomes["a"], Failed)
    assert "SIGKILL" in outcomes["a"].error
    assert isinstance(outcomes["b"], Built)
    assert host.locks() == []


def test_the_run_after_a_killed_build_completes(host: Host) -> None:
    host.variants("a", "b")
    host.loads(killed=["GPU-0"])
    host.build({"a": (ONE,), "b": (OTHER,)})
    host.loads()
    outcomes = host.build({"a": (ONE,), "b": (OTHER,)})
    assert isinstance(outcomes["a"], Built)
    assert len(host.forge.engines()) == 2
    assert litter(host.forge.cache) == []


def test_an_engine_that_does_not_load_is_not_published(host: Host) -> None:
    # The real load test: there is no such GPU.
    host.variants("a")
    outcome = host.build({"a": (ONE,)})["a"]
    assert isinstance(outcome, Failed)
    assert outcome.stage == "engine"
    assert outcome.error.startswith("the engine was built, and does not load: ")
    assert host.forge.engines() == []
    assert list(host.forge.cache.glob("plans-v1/*/*")) == []
    assert litter(host.forge.cache) == []
    assert host.locks() == []


def test_loading_is_a_phase_of_its_own(host: Host) -> None:
    host.variants("a")
    host.loads()
    host.build({"a": (ONE,)})
    phases = [event.phase for event in host.events if isinstance(event, Started)]
    assert phases == ["importing", "building", "loading", "publishing"]


def test_a_failure_ends_the_wait_of_others_for_their_gpus(host: Host) -> None:
    host.variants("a", "b")
    host.loads(fails=["GPU-2"])
    store = LocalStore(host.forge.cache)
    with store.session() as session, session.leasing(["GPU-0"], "somebody", lambda _: None):
        outcomes = host.build({"a": (ONE,), "b": (THIRD,)}, keep_going=False)
    assert isinstance(outcomes["a"], Skipped)
    assert "another variant failed" in outcomes["a"].why
    assert isinstance(outcomes["b"], Failed)
    assert "the GPU fell off the bus" in outcomes["b"].error


def test_an_interrupt_ends_the_wait_for_a_gpu(host: Host) -> None:
    host.variants("a")
    host.loads()
    store = LocalStore(host.forge.cache)
    interrupted = _when(_waits_for_a_gpu, lambda: os.kill(os.getpid(), signal.SIGINT))
    with (
        store.session() as session,
        session.leasing(["GPU-0"], "somebody", lambda _: None),
        pytest.raises(KeyboardInterrupt),
    ):
        host.build({"a": (ONE,)}, observe=interrupted)
    assert host.forge.engines() == []
    assert host.locks() == []


def test_what_is_there_already_needs_no_gpu(host: Host) -> None:
    host.variants("a")
    host.loads()
    host.build({"a": (ONE,)})
    (host.forge.cache / "index").unlink()
    for record in host.forge.cache.glob("plans-v1/*/*"):
        record.unlink()
    store = LocalStore(host.forge.cache)
    with store.session() as session, session.leasing(["GPU-0"], "somebody", lambda _: None):
        outcome = host.build({"a": (ONE,)})["a"]
    assert isinstance(outcome, Reused)
    assert not any(map(_waits_for_a_gpu, host.events))
