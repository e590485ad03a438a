"""Real processes, killed with -9 anywhere: what they were promised is there, and all is whole."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.store.crash.places import quick_folder

_REPOSITORY = Path(__file__).parents[2]
Told = Callable[[str, object], None]


def _victims(*arguments: object) -> Any:  # noqa: ANN401 - JSON
    command = [sys.executable, "-m", "tests.store.crash.victims", *map(str, arguments)]
    done = subprocess.run(command, cwd=_REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("kills", [60, pytest.param(1200, marks=pytest.mark.slow)])
def test_processes_killed_at_random_break_no_promise(
    kills: int, tmp_path: Path, record_property: Told
) -> None:
    found = _victims("random", tmp_path / "cache", kills, 1)
    record_property("kills", found["kills"])
    sys.stderr.write(f"{found['kills']} kills, {found['promises']} promises\n")
    assert found["wrong"] == []
    assert found["kills"] >= kills
    assert found["promises"] > kills


def test_a_process_killed_before_any_single_change_breaks_no_promise(
    record_property: Told,
) -> None:
    with quick_folder() as folder:
        found = _victims("each", folder)
    record_property("kills", found["kills"])
    sys.stderr.write(f"{found['kills']} kills, {found['promises']} promises\n")
    assert found["wrong"] == []
    assert found["kills"] > 80
