"""What a webhook is told: within what Slack takes, whatever names hold."""

from __future__ import annotations

import json
from typing import Any

from engineforge.nightly.message import message
from engineforge.nightly.text import headline
from tests.nightly.nights import HOSTILE, failed, night, serving


def _sections(made: dict[str, Any]) -> list[str]:
    return [each["text"]["text"] for each in made["blocks"] if each["type"] == "section"]


def test_it_says_what_failed_and_what_is_stale_since() -> None:
    found = night(failed(), newly_stale=[serving(fresh=False)])
    made = message(found, headline(found))
    assert made["text"] == (
        "night of 2026-10-01 03:17 UTC, models: 1 failed, 1 served engine stale since"
    )
    assert _sections(made) == [
        "*Failed*\n• *build* net/fp32@ada: no tactic",
        "*Stale since tonight, and served*\n• dev: net/fp32@ada: the model changed",
    ]


def test_a_name_mentions_nobody_and_is_no_link() -> None:
    (section,) = _sections(message(night(failed(said="<!channel> <http://x|y> &")), "told"))
    assert section.endswith("&lt;!channel&gt; &lt;http://x|y&gt; &amp;")


def test_very_many_failures_fit_into_what_slack_takes() -> None:
    cases = [failed(label="<" * 400, said=HOSTILE * 400) for _ in range(500)]
    made = message(night(*cases), "x" * 5000)
    assert len(made["blocks"]) <= 50
    assert len(made["blocks"][0]["text"]["text"]) <= 150
    assert all(len(section) <= 3000 for section in _sections(made))
    json.dumps(made).encode("ascii")
