"""Nights that are interrupted, killed, or two at once."""

from __future__ import annotations

import signal

import pytest

pytest.importorskip("cryptography", reason="python -m pip install 'engineforge[promotion]'")
pytest.importorskip("onnxruntime", reason="python -m pip install 'engineforge[precision]'")
pytest.importorskip("jinja2", reason="python -m pip install 'engineforge[report]'")

from tests.cli.nightly.nights import (
    Posts,
    cases,
    left,
    log,
    night,
    process,
)
from tests.conftest import Forge

pytestmark = pytest.mark.slow


class TestEndedEarly:
    @pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
    def test_interrupted_it_leaves_what_there_was_and_the_next_goes_on(
        self, how: signal.Signals, sound: Forge, posts: Posts
    ) -> None:
        started = process(sound, "--webhook", posts.url)
        next(started.stderr)  # something is being built
        started.send_signal(how)
        out, err = started.communicate(timeout=60)
        assert started.returncode == 130, out + err
        assert (log(left(sound))[-1]["event"], log(left(sound))[-1]["code"]) == ("ended", 130)
        assert ("plan", "stale") in cases(sound)
        assert "interrupted" in posts[0]["text"]
        assert night(sound).code == 0

    def test_killed_it_leaves_its_log_and_the_next_one_notes_it(self, sound: Forge) -> None:
        started = process(sound)
        next(started.stderr)
        started.kill()
        started.communicate()
        (folder,) = sound.root.glob("nights/2*")
        assert [each["event"] for each in log(folder)][:2] == ["night", "step"]
        result = night(sound)
        assert result.code == 0
        assert f"note: the night before, 'nights/{folder.name}', did not end" in result.err

    def test_two_at_once_are_one_and_a_refusal(self, sound: Forge) -> None:
        first = process(sound)
        next(first.stderr)
        second = process(sound)
        out, err = second.communicate(timeout=60)
        assert (second.returncode, out) == (1, "")
        assert f"a night is under way in 'nights': process {first.pid} on" in err
        first.communicate(timeout=60)
        assert first.returncode == 0
        assert len(list(sound.root.glob("nights/2*"))) == 1
