"""The log of a night: whole lines, whatever happens to who writes them, and to the disk."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from engineforge.nightly.log import NightLog
from engineforge.worker.outcome import Finished, Noted, Skipped
from tests.nightly.nights import HOSTILE, STARTED


def test_what_many_say_at_once_are_whole_lines(tmp_path: Path) -> None:
    with NightLog(tmp_path / "events.jsonl", lambda: STARTED) as log:

        def say() -> None:
            for _ in range(5):
                log.tell(Noted(HOSTILE, "x" * 999))

        threads = [threading.Thread(target=say) for _ in range(8)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert [json.loads(each)["label"] for each in lines] == [HOSTILE] * 40


def test_it_knows_what_was_finished_in_which_check(tmp_path: Path) -> None:
    with NightLog(tmp_path / "events.jsonl", lambda: STARTED) as log:
        log.tell(Finished("a/b@c", Skipped(why="")), "latency")
        assert log.finished == {("a/b@c", "latency")}
        assert json.loads(log.text())["check"] == "latency"


def test_a_log_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text("mine")
    with pytest.raises(FileExistsError):
        NightLog(path, lambda: STARTED)
    assert path.read_text() == "mine"


def test_a_disk_that_takes_no_more_ends_the_log_and_not_the_night(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FULL, str(tmp_path / "events.jsonl")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"'{tmp_path}/events.jsonl' cannot be written: File too large\n"


_FULL = """
import resource, sys
from datetime import datetime
from pathlib import Path
from engineforge.nightly.log import NightLog
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
with NightLog(Path(sys.argv[1]), datetime.now) as log:
    for _ in range(100):
        log.say("noted", {"text": "x" * 99})
    print(log.fault)
"""
