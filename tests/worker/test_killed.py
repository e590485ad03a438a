"""Processes that end at any moment, by any hand: the store is whole, and the next run goes on."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time

import pytest

from engineforge.store.local import LocalStore
from tests.conftest import Forge
from tests.worker.conftest import builders, chain, litter, outcomes, says, until


def _whole(forge: Forge) -> bool:
    result = forge.run("verify", "--json")
    return result.code == 0 and result.json["faults"] == []


@pytest.mark.slow
def test_killed_at_any_moment_the_same_command_completes(forge: Forge) -> None:
    forge.edit("net", "[ada]", "[ada, ampere]")
    moments = random.Random(20260101)
    for _ in range(25):
        process = forge.process("build", "specs", "-j", "2")
        time.sleep(moments.uniform(0.05, 1.1))
        process.kill()
        process.communicate()
        result = forge.build("-j", "2")
        assert result.code == 0, result.err
        assert result.json["faults"] == []
        assert len(forge.engines()) == 2
        assert _whole(forge)
        # The killed one's children may have outlived it, and written while that build swept.
        until(lambda: not builders(forge.cache))
        with LocalStore(forge.cache).session():
            pass
        assert litter(forge.cache) == []
        shutil.rmtree(forge.cache)


def test_the_child_of_a_killed_process_ends_by_itself(forge: Forge) -> None:
    chain(forge, "slow", 3000)
    process = forge.process("build", "specs/slow.yaml")
    until(lambda: builders(forge.cache))
    time.sleep(0.5)
    process.kill()
    process.communicate()
    until(lambda: not builders(forge.cache), seconds=5)


def test_the_staging_of_a_killed_build_is_swept_by_the_next(forge: Forge) -> None:
    chain(forge, "slow", 3000)
    process = forge.process("build", "specs/slow.yaml")
    until(lambda: builders(forge.cache))
    process.kill()
    process.communicate()
    assert litter(forge.cache) != []
    until(lambda: not builders(forge.cache))
    assert forge.run("build", "specs/net.yaml").code == 0
    assert litter(forge.cache) == []


def test_a_killed_child_is_a_failure_that_names_the_signal(forge: Forge) -> None:
    chain(forge, "a-slow", 1000)
    process = forge.process("build", "specs", "--json", "--keep-going", "-j", "1")
    (child,) = until(lambda: builders(forge.cache))
    os.kill(child, signal.SIGKILL)
    found = outcomes(process)
    assert process.returncode == 1
    failed = found["a-slow/fp32@ada"]
    assert failed["outcome"] == "failed"
    assert failed["stage"] == "engine"
    assert "SIGKILL" in failed["error"]
    assert found["net/fp32@ada"]["outcome"] == "built"
    again = forge.build()
    assert again.code == 0
    assert [v["outcome"] for v in again.json["variants"]] == ["built", "reused"]


def test_without_keep_going_a_killed_child_skips_the_rest(forge: Forge) -> None:
    chain(forge, "a-slow", 3000)
    process = forge.process("build", "specs", "--json", "-j", "1")
    (child,) = until(lambda: builders(forge.cache))
    os.kill(child, signal.SIGSEGV)
    found = outcomes(process)
    assert process.returncode == 1
    assert "SIGSEGV" in found["a-slow/fp32@ada"]["error"]
    assert found["net/fp32@ada"]["outcome"] == "skipped"
    assert "--keep-going" in found["net/fp32@ada"]["why"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build_ends_its_children_and_keeps_what_was_finished(
    forge: Forge, number: signal.Signals
) -> None:
    chain(forge, "slow", 3000)
    process = forge.process("build", "specs", "-j", "2")
    says(process, "net/fp32@ada: built")
    until(lambda: builders(forge.cache))
    process.send_signal(number)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert err.endswith("interrupted; the same command goes on from here\n")
    assert "Traceback" not in err
    assert builders(forge.cache) == []
    assert litter(forge.cache) == []
    assert [v["state"] for v in forge.plan()] == ["up-to-date", "stale"]
    assert forge.run("build", "specs/net.yaml", "--json").outcomes() == {"fp32@ada": "reused"}
    assert _whole(forge)


@pytest.mark.slow
def test_a_signal_while_a_child_is_started_is_not_lost(forge: Forge) -> None:
    chain(forge, "slow", 3000)
    for _ in range(15):
        process = forge.process("build", "specs/slow.yaml")
        until(lambda: builders(forge.cache))
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=5)
        assert process.returncode == 130


def test_the_run_after_an_interrupted_one_completes(forge: Forge) -> None:
    chain(forge, "slow", 800)
    process = forge.process("build", "specs", "-j", "2")
    until(lambda: len(builders(forge.cache)) == 2)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert forge.build().code == 0
    assert _whole(forge)


def test_an_interrupted_process_does_not_wait_for_another_s_build(forge: Forge) -> None:
    chain(forge, "slow", 3000)
    builds = forge.process("build", "specs/slow.yaml")
    says(builds, "building")
    waits = forge.process("build", "specs/slow.yaml")
    says(waits, f"waiting for PID {builds.pid} ")
    waits.send_signal(signal.SIGINT)
    waits.communicate(timeout=10)
    assert waits.returncode == 130
    assert builds.poll() is None, "the other one goes on"
    builds.send_signal(signal.SIGTERM)
    builds.communicate(timeout=10)


def test_a_build_that_takes_too_long_is_killed_and_says_so(forge: Forge) -> None:
    chain(forge, "slow", 3000)
    result = forge.run("build", "specs/slow.yaml", "--timeout", "1", "--json")
    assert result.code == 1
    (variant,) = result.json["variants"]
    assert variant["outcome"] == "failed"
    assert variant["error"] == "the process was killed: it took more than 1 s"
    assert builders(forge.cache) == []
    assert forge.engines() == []


def test_a_time_limit_that_is_kept_changes_nothing(forge: Forge) -> None:
    assert forge.build("--timeout", "60").outcomes() == {"fp32@ada": "built"}


@pytest.mark.slow
def test_a_long_chain_of_nodes_does_not_overflow_the_stack(forge: Forge) -> None:
    chain(forge, "long", 4000)
    result = forge.run("build", "specs/long.yaml", "--json")
    assert result.code == 0, result.out
    assert result.outcomes() == {"fp32@ada": "built"}
