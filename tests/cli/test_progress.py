"""Progress: live on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys

import pytest
from rich.console import Console

from engineforge.cli.progress import _Live, progress
from engineforge.worker.outcome import Event, Moved, Noted, Started, Waiting
from tests.conftest import Forge
from tests.models import elementwise


def on_a_terminal(forge: Forge, *args: str, **environment: str) -> str:
    """The bytes that a real terminal would get of a command, or of a build."""
    leader, follower = pty.openpty()
    plain = {k: v for k, v in os.environ.items() if k not in ("CI", "TERM", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-m", "engineforge", *(args or ("build", "specs"))],
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


def _slow(forge: Forge) -> None:
    """A model that builds for more than half a second: a live table is drawn eight times in one."""
    elementwise(forge.model, inputs=[("image", ["n", 3, 16, 16])], length=1200)


def test_a_terminal_sees_phase_and_elapsed_time(forge: Forge) -> None:
    _slow(forge)
    said = on_a_terminal(forge)
    assert "building" in said
    assert "first time" in said
    assert "\x1b[" in said


def test_the_variants_own_history_is_shown(built: Forge) -> None:
    _slow(built)
    built.edit("net", "max: [8, 3", "max: [9, 3")
    assert "of about" in on_a_terminal(built)


def test_a_transfer_is_shown_by_its_share_until_it_is_done() -> None:
    live = _Live({})
    console = Console(file=io.StringIO(), width=100)

    def shown() -> str:
        with console.capture() as captured:
            console.print(live.render())
        return captured.get()

    live.tell(Moved("net/fp32@ada", "fetching", 50, 200))
    assert "net/fp32@ada" in shown()
    assert "fetching 25 %" in shown()
    live.tell(Moved("net/fp32@ada", "pushing", 0, 0))  # all empty files
    assert "pushing" not in shown()


@pytest.mark.parametrize("environment", [{"CI": "true"}, {"TERM": "dumb"}])
def test_ci_and_dumb_terminals_get_plain_lines(forge: Forge, environment: dict[str, str]) -> None:
    said = on_a_terminal(forge, **environment)
    assert "\x1b" not in said
    assert "net/fp32@ada: building" in said


def _lines(*events: Event) -> list[str]:
    """What is written of these where nobody sits at a terminal."""
    stream = io.StringIO()
    with progress(stream, {}, {}) as tell:
        for event in events:
            tell(event)
    return stream.getvalue().splitlines()


def test_what_takes_long_has_a_line_when_it_begins() -> None:
    phases = ("importing", "converting", "building", "publishing", "measuring")
    assert _lines(*(Started("net/int8@ada", phase) for phase in phases)) == [
        "net/int8@ada: converting",
        "net/int8@ada: building",
        "net/int8@ada: measuring",
    ]


@pytest.mark.parametrize(
    ("stage", "does"),
    [
        ("onnx", "imports the same model"),
        ("typed", "converts the same model"),
        ("engine", "builds the same engine"),
        ("checks", "measures the same"),
        ("sensitivity", "measures the same"),
    ],
)
def test_who_waits_says_what_the_other_does(stage: str, does: str) -> None:
    (line,) = _lines(Waiting("net/int8@ada", stage, "PID 7 on host"))
    assert line == f"net/int8@ada: waiting for PID 7 on host, which {does}"


def test_what_went_otherwise_than_usual_is_said() -> None:
    (line,) = _lines(Noted("net/int8@here", "a timing cache was set aside: it is broken"))
    assert line == "net/int8@here: a timing cache was set aside: it is broken"
