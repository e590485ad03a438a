"""A night as a message for people: what Slack's incoming webhooks take, as do Mattermost,
Rocket.Chat and Discord (behind `/slack`). Pure.

Format: docs.slack.dev, "Formatting message text" (&, < and > are escaped, so that no name mentions
anybody) and "Block Kit" (50 blocks; 150 characters of a header, 3,000 of a section).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from engineforge.errors import printable
from engineforge.nightly.night import Night

_MOST_LISTED = 15
_MOST_OF_LINE = 180
_MOST_OF_HEADER = 150
_MOST_OF_SECTION = 3000


def message(night: Night, told: str) -> dict[str, Any]:
    """`told` is the night in one line."""
    blocks: list[dict[str, Any]] = [
        {
            "type": "header",
            "text": {"type": "plain_text", "text": _short(told, _MOST_OF_HEADER), "emoji": False},
        }
    ]
    failed = (
        f"*{_text(each.step)}* {_text(each.name)}: {_text(each.said)}" for each in night.failed
    )
    stale = (f"{_text(each.name)}: {_text(each.why or '')}" for each in night.newly_stale)
    blocks += _sections("Failed", failed)
    blocks += _sections("Stale since tonight, and served", stale)
    return {"text": _text(told), "blocks": blocks}


def _sections(title: str, lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    every = list(lines)
    if not every:
        return
    shown = every[:_MOST_LISTED]
    if len(every) > len(shown):
        shown.append(f"… and {len(every) - len(shown)} more")
    size, kept = len(title) + 3, [f"*{title}*"]
    for line in shown:
        size += len(line) + 3
        if size > _MOST_OF_SECTION:
            break
        kept.append(f"• {line}")
    yield {"type": "section", "text": {"type": "mrkdwn", "text": "\n".join(kept)}}


def _text(text: str) -> str:
    text = _short(text, _MOST_OF_LINE)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _short(text: str, most: int) -> str:
    text = printable(" ".join(text.split()))
    return text if len(text) <= most else text[: most - 1] + "…"
