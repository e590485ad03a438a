"""Sixty-four processes that want one entry: it is made once, and everyone has the same."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from engineforge.digest import digest_value
from engineforge.store.local import LocalStore
from tests.conftest import Forge
from tests.worker import crowd
from tests.worker.conftest import chain, litter, outcomes, until

_COUNT = 64
_LOCK = Path("staging", "locks", f"engine-{digest_value(crowd.KEY).hex}.lock")


@dataclass(frozen=True)
class _Came:
    """What the processes of a crowd said, those that lived to."""

    members: list[dict[str, Any]]
    saw: list[str]
    codes: list[int]

    def made_by(self) -> set[int]:
        return {each["made_by"] for each in self.members}

    def engines(self) -> set[str]:
        return {each["engine"] for each in self.members}

    def wrong(self) -> list[str]:
        """What no process may ever see: half an entry, or anything moved aside."""
        said = [what for each in self.members for what in (*each["broken"], *each["faults"])]
        return said + self.saw


@contextlib.contextmanager
def _crowd(cache: Path, mode: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.worker.crowd", str(cache), str(_COUNT), mode]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield process


def _ended(process: subprocess.Popen[str]) -> _Came:
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    lines = [json.loads(line) for line in out.splitlines()]
    (codes,) = [each["codes"] for each in lines if "codes" in each]
    (saw,) = [each["saw"] for each in lines if "saw" in each]
    return _Came([each for each in lines if "built" in each], saw, codes)


def _is_tidy(cache: Path) -> bool:
    """Nothing is left but the entry, once the next session has swept what a dead one left."""
    with LocalStore(cache).session():
        pass
    return litter(cache) == [] and len(list((cache / "entries-v1" / "engine").glob("??/*"))) == 1


def test_sixty_four_processes_make_an_entry_once(tmp_path: Path) -> None:
    with _crowd(tmp_path / "cache", "locks") as process:
        came = _ended(process)
    assert came.codes == [0] * (_COUNT + 1)
    assert Counter(each["built"] for each in came.members) == {True: 1, False: _COUNT - 1}
    assert len(came.engines()) == 1
    (builder,) = came.made_by()
    assert [each["pid"] for each in came.members if each["built"]] == [builder]
    assert came.wrong() == []
    assert _is_tidy(tmp_path / "cache")


def test_those_who_wait_are_told_of_the_one_who_builds(tmp_path: Path) -> None:
    with _crowd(tmp_path / "cache", "locks") as process:
        came = _ended(process)
    (builder,) = came.made_by()
    told = {holder for each in came.members for holder in each["waited_for"]}
    assert any(holder.startswith(f"PID {builder} on ") for holder in told)


def test_when_the_builder_is_killed_exactly_one_of_sixty_three_takes_over(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with _crowd(cache, "locks") as process:
        killed = until(lambda: _writing(cache))
        os.kill(killed, signal.SIGKILL)
        came = _ended(process)
    assert Counter(came.codes) == {0: _COUNT, -signal.SIGKILL: 1}
    assert Counter(each["built"] for each in came.members) == {True: 1, False: _COUNT - 2}
    assert len(came.engines()) == 1
    assert killed not in came.made_by()
    assert came.wrong() == []
    assert _is_tidy(cache)


def _writing(cache: Path) -> int | None:
    """The process that holds the lock, once it has begun to write an engine."""
    try:
        holder = (cache / _LOCK).read_text()
    except OSError:
        return None
    found = re.match(r"PID (\d+) on ", holder)
    begun = any(each.stat().st_size for each in (cache / "staging").glob("*/*/model.engine"))
    return int(found[1]) if found and begun else None


def test_where_locks_exclude_nobody_all_adopt_the_entry_that_was_published_first(
    tmp_path: Path,
) -> None:
    with _crowd(tmp_path / "cache", "none") as process:
        came = _ended(process)
    assert came.codes == [0] * (_COUNT + 1)
    assert sum(each["built"] for each in came.members) > 1  # or this shows nothing
    assert len(came.engines()) == 1
    assert len(came.made_by()) == 1
    assert came.wrong() == []
    assert _is_tidy(tmp_path / "cache")


@pytest.mark.slow
def test_eight_runs_of_the_command_line_build_a_spec_once(forge: Forge) -> None:
    chain(forge, "slow", 500)
    running = [forge.process("build", "specs/slow.yaml", "--json") for _ in range(8)]
    found = [outcomes(process)["slow/fp32@ada"] for process in running]
    assert Counter(each["outcome"] for each in found) == {"built": 1, "reused": 7}
    assert len({each["engine"] for each in found}) == 1
    assert litter(forge.cache) == []
