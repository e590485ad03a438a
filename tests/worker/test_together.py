"""Several processes on one cache: each key is built once, and everyone gets it."""

from __future__ import annotations

import re
import socket
from collections import Counter

import pytest

from tests.conftest import Forge
from tests.worker.conftest import chain, litter, outcomes, says


@pytest.mark.parametrize("count", [2, pytest.param(6, marks=pytest.mark.slow)])
def test_processes_at_once_build_each_key_once(forge: Forge, count: int) -> None:
    chain(forge, "slow", 1000, targets=("ada", "ampere"))
    running = [forge.process("build", "specs", "--json", "-j", "2") for _ in range(count)]
    found = [outcomes(process) for process in running]
    assert [process.returncode for process in running] == [0] * count
    for label in ("net/fp32@ada", "slow/fp32@ada", "slow/fp32@ampere"):
        said = Counter(each[label]["outcome"] for each in found)
        assert said == {"built": 1, "reused": count - 1}
        assert len({each[label]["engine"] for each in found}) == 1
    assert len(forge.engines()) == 3
    assert litter(forge.cache) == []
    assert forge.run("verify").code == 0


def test_who_waits_says_for_whom_and_afterwards_by_whom_it_was_built(forge: Forge) -> None:
    chain(forge, "slow", 2000)
    first = forge.process("build", "specs/slow.yaml", "--json")
    says(first, "slow/fp32@ada: building")
    second = forge.process("build", "specs/slow.yaml", "--json")
    line = says(second, "waiting")
    holder = rf"PID {first.pid} on {re.escape(socket.gethostname())} since 20\d\d-\d\d-\d\dT[\d:+]+"
    assert re.fullmatch(
        rf"slow/fp32@ada: waiting for {holder}, which builds the same engine\n", line
    )
    assert outcomes(first)["slow/fp32@ada"]["outcome"] == "built"
    reused = outcomes(second)["slow/fp32@ada"]
    assert reused["outcome"] == "reused"
    assert re.fullmatch(rf"built by {holder}", reused["why"])


def test_when_the_builder_is_killed_exactly_one_of_those_who_wait_takes_over(
    forge: Forge,
) -> None:
    chain(forge, "slow", 2000)
    builder = forge.process("build", "specs/slow.yaml", "--json")
    says(builder, "slow/fp32@ada: building")
    waiting = [forge.process("build", "specs/slow.yaml", "--json") for _ in range(2)]
    for process in waiting:
        says(process, f"waiting for PID {builder.pid} ")
    builder.kill()
    builder.communicate()
    found = [outcomes(process)["slow/fp32@ada"] for process in waiting]
    assert sorted(each["outcome"] for each in found) == ["built", "reused"]
    assert len({each["engine"] for each in found}) == 1
    (by,) = [each["why"] for each in found if each["outcome"] == "reused"]
    assert f"PID {builder.pid} " not in by
    assert forge.run("verify").code == 0


def test_different_keys_do_not_wait_for_each_other(forge: Forge) -> None:
    chain(forge, "slow", 3000)
    slow = forge.process("build", "specs/slow.yaml")
    says(slow, "slow/fp32@ada: building")
    assert forge.run("build", "specs/net.yaml", "--json").outcomes() == {"fp32@ada": "built"}
    assert slow.poll() is None
    slow.kill()
    slow.communicate()
