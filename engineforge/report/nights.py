"""How two nights differ: two reports as `report --json` prints them, or two event logs. Pure:
prints nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from engineforge.errors import UsageError
from engineforge.report.data import FORMAT
from engineforge.report.events import Log
from engineforge.report.page.document import FORMAT as REPORT_FORMAT
from engineforge.report.page.document import KIND
from engineforge.report.page.figures import accuracy_of, common_measure, worst
from engineforge.report.page.rows import STATUSES, status
from engineforge.report.text import counted, duration, size

Report = Mapping[str, Any]


def read_report(text: str, called: str) -> Report | None:
    """A report, as it was printed; None for any other text, UsageError for another format of
    it."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, Mapping) or found.get("kind") != KIND:
        return None
    if found.get("format") != REPORT_FORMAT:
        raise UsageError(
            f"'{called}' is a report of format {found.get('format')!r}, and this version reads "
            f"{REPORT_FORMAT}"
        )
    return found


def compare_reports(before: Report, after: Report) -> dict[str, Any]:
    """By label, what became another; what stayed as it was is only counted."""
    old, new = ({each["label"]: each for each in report["variants"]} for report in (before, after))
    changed = {label: _variant(old[label], new[label], after) for label in new if label in old}
    differing = {label: each for label, each in changed.items() if each}
    known = {_promotion(each) for each in before["promotions"]}
    return {
        "format": FORMAT,
        "kind": "reports",
        "before": before["time"],
        "after": after["time"],
        "added": sorted(new.keys() - old.keys()),
        "removed": sorted(old.keys() - new.keys()),
        "changed": differing,
        "same": len(changed) - len(differing),
        "promotions": [each for each in after["promotions"] if _promotion(each) not in known],
    }


def _promotion(event: Mapping[str, Any]) -> tuple[str, str, int]:
    return event["environment"], event["spec"], event["number"]


def _variant(old: Mapping[str, Any], new: Mapping[str, Any], after: Report) -> dict[str, Any]:
    found: dict[str, Any] = {}
    statuses = status(old), status(new)
    if statuses[0] != statuses[1]:
        found["status"] = _pair(*statuses)
        if (failure := new["failure"]) is not None:
            found["failure"] = {"stage": failure["stage"], "error": failure["error"]}
        elif new["why"] and statuses[0] == "up-to-date":
            found["why"] = new["why"]
    one, other = old["last"] or {}, new["last"] or {}
    for word in ("precision",):
        if old[word] != new[word]:
            found[word] = _pair(old[word], new[word])
    if one.get("engine") != other.get("engine"):
        found["engine"] = _pair(one.get("engine"), other.get("engine"))
        found["key"] = _key(new["label"], one.get("finished"), after)
        for word in ("size", "seconds"):
            if one.get(word) != other.get(word):
                found[word] = _pair(one.get(word), other.get(word))
    found |= _measured(old, new)
    served = {
        name: _pair(_number(old, name), _number(new, name))
        for name in {**old["environments"], **new["environments"]}
        if _number(old, name) != _number(new, name)
    }
    if served:
        found["environments"] = served
    return found


def _key(label: str, since: str | None, after: Report) -> list[Mapping[str, Any]]:
    """The leaves in which what was built since was asked to be another, the oldest first."""
    builds = [
        each
        for each in reversed(after["builds"])
        if each["label"] == label and each["finished"] > (since or "")
    ]
    return [leaf for each in builds for leaf in each["changes"]]


def _measured(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    latencies = old["latency"], new["latency"]
    if None not in latencies and latencies[0]["entry"] != latencies[1]["entry"]:
        found["latency"] = _pair(*(each["median_ms"] for each in latencies))
    checks = accuracy_of(old), accuracy_of(new)
    if checks[0] is not None and checks[1] is not None:
        values = [worst(each[1]["outputs"]) for each in checks if each is not None]
        measure = common_measure(values)
        if measure is not None and values[0][measure.name] != values[1][measure.name]:
            found["accuracy"] = {
                **_pair(*(each[measure.name] for each in values)),
                "text": " → ".join(measure.text(each[measure.name]) for each in values),
            }
    return found


def _number(variant: Mapping[str, Any], environment: str) -> int | None:
    there = variant["environments"].get(environment)
    return None if there is None else there["number"]


def _pair(before: object, after: object) -> dict[str, Any]:
    return {"before": before, "after": after}


def compare_logs(before: Log, after: Log) -> dict[str, Any]:
    """What variants came to in one run, and in another."""
    old, new = before.finished, after.finished
    return {
        "format": FORMAT,
        "kind": "event-logs",
        "added": sorted(new.keys() - old.keys()),
        "removed": sorted(old.keys() - new.keys()),
        "changed": {
            label: {
                **_pair(old[label]["outcome"], new[label]["outcome"]),
                **{k: new[label][k] for k in ("stage", "error", "why") if k in new[label]},
            }
            for label in new
            if label in old and old[label].get("outcome") != new[label].get("outcome")
        },
        "same": sum(
            label in old and old[label].get("outcome") == new[label].get("outcome") for label in new
        ),
    }


def night_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """What became another, a variant a line with what of it below."""
    if found["kind"] == "reports":
        yield f"from {found['before']} to {found['after']}"
    for label in found["removed"]:
        yield f"- {label}"
    for label in found["added"]:
        yield f"+ {label}"
    for label, each in found["changed"].items():
        yield f"~ {label}"
        lines = _report_lines(each) if found["kind"] == "reports" else _log_lines(each)
        yield from (f"    {line}" for line in lines)
    for each in found.get("promotions", ()):
        reason = f": {each['reason']}" if each["reason"] else ""
        yield (
            f"! {each['environment']} {each['spec']} {each['number']}  {each['action']} by "
            f"{each['by']}{reason}"
        )
    yield (
        f"{counted(len(found['changed']), 'variant')} changed, {found['same']} the same, "
        f"{len(found['added'])} added, {len(found['removed'])} removed"
    )


def _report_lines(each: Mapping[str, Any]) -> Iterator[str]:
    if (pair := each.get("status")) is not None:
        yield " → ".join(STATUSES[pair[word]][1] for word in ("before", "after"))
    if (failure := each.get("failure")) is not None:
        yield f"in stage {failure['stage']}: {failure['error']}"
    yield from each.get("why", ())
    if "engine" in each:
        keys = ((each["engine"][word] or "none")[7:19] or "none" for word in ("before", "after"))
        yield f"engine {' → '.join(keys)}"
    for leaf in each.get("key", ()):
        yield f"{leaf['leaf']} {_short(leaf['before'])} → {_short(leaf['after'])}"
    for word, told in (("precision", str), ("size", size), ("seconds", duration)):
        if (pair := each.get(word)) is not None and None not in pair.values():
            yield f"{word} {told(pair['before'])} → {told(pair['after'])}"
    if (pair := each.get("latency")) is not None and all(pair.values()):
        percent = 100 * (pair["after"] / pair["before"] - 1)
        yield f"median {pair['before']:.4g} → {pair['after']:.4g} ms ({percent:+.1f} %)"
    if "accuracy" in each:
        yield str(each["accuracy"]["text"])
    for name, pair in each.get("environments", {}).items():
        numbers = (pair[word] or "none" for word in ("before", "after"))
        yield f"{name}: number {' → '.join(map(str, numbers))}"


def _short(value: object) -> str:
    text = "none" if value is None else str(value)
    return text[7:19] if text.startswith("sha256:") else text


def _log_lines(each: Mapping[str, Any]) -> Iterator[str]:
    yield f"{each['before']} → {each['after']}"
    if "error" in each:
        yield f"in stage {each.get('stage')}: {each['error']}"
    elif "why" in each:
        yield str(each["why"])
