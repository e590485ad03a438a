"""How long earlier states of a spec can be rolled back to. What is not kept loses its tag; its
bytes are for the keeper's own garbage collection, which knows who else needs them."""

from __future__ import annotations

from datetime import datetime, timedelta

from engineforge.promotion.environment import Opened, tag_of
from engineforge.promotion.state import State


def expire(opened: Opened, state: State, now: datetime) -> list[int]:
    """Untag the earlier states that an environment keeps no longer, and have back their numbers;
    fewer where the keeper lets nobody remove a tag. The ledger keeps every event."""
    retention = opened.environment.retention
    earlier = [number for number in opened.numbers(state.spec) if number < state.number]
    too_many = earlier[: max(len(earlier) - retention.keep, 0)]
    oldest = now - timedelta(days=retention.days)
    gone = []
    for number in too_many:
        if retention.days and opened.event(state, number).time >= oldest:
            break  # those after it are younger
        if not opened.repository.untag(f"{tag_of(state.spec)}--{number}"):
            break
        gone.append(number)
    return gone
