"""Progress: live on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from tests.conftest import Forge


def _on_a_terminal(forge: Forge, **environment: str) -> str:
    """The bytes that a real terminal would get of a build."""
    leader, follower = pty.openpty()
    plain = {k: v for k, v in os.environ.items() if k not in ("CI", "TERM", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-m", "engineforge", "build", "specs"],
        cwd=forge.root,
        stdin=follower,
        stdout=subprocess.DEVNULL,
        stderr=follower,
        env={**plain, "TERM": "xterm-256color", "COLUMNS": "120", **environment},
    )
    os.close(follower)
    said = b""
    while True:
        try:
            piece = os.read(leader, 65536)
        except OSError:
            break
        if not piece:
            break
        said += piece
    os.close(leader)
    assert process.wait() == 0
    return said.decode()


def test_a_terminal_sees_phase_and_elapsed_time(forge: Forge) -> None:
    said = _on_a_terminal(forge)
    assert "building" in said
    assert "first time" in said
    assert "\x1b[" in said


def test_the_variants_own_history_is_shown(built: Forge) -> None:
    built.edit("net", "max: [8, 3", "max: [9, 3")
    assert "of about" in _on_a_terminal(built)


@pytest.mark.parametrize("environment", [{"CI": "true"}, {"TERM": "dumb"}])
def test_ci_and_dumb_terminals_get_plain_lines(forge: Forge, environment: dict[str, str]) -> None:
    said = _on_a_terminal(forge, **environment)
    assert "\x1b" not in said
    assert "net/fp32@ada: building" in said
