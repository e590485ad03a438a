"""How two engines differ, as JSON and as lines: what they were asked to be, their layers, how
large, fast and close they are. Pure: prints nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from engineforge.checks.latency import slower_percent, time_of
from engineforge.plan.explain import Change, changes
from engineforge.project.subjects import Subject
from engineforge.report.data import FORMAT
from engineforge.report.latency import held_down
from engineforge.report.layers import Compared, compare_layers, precision, tactic
from engineforge.report.page.figures import MEASURES, worst
from engineforge.report.text import counted, size

_FEW = 20


def difference(before: Subject, after: Subject) -> dict[str, Any]:
    """Plain JSON; nothing in it is a judgement."""
    return {
        "format": FORMAT,
        "kind": "engines",
        "before": _about(before),
        "after": _about(after),
        "same_file": before.engine == after.engine,
        "key": [
            {"leaf": each.leaf, "before": each.before, "after": each.after}
            for each in _key(before, after)
        ],
        "precision": {"before": _precision(before), "after": _precision(after)},
        "size": {"before": before.size, "after": after.size},
        "layers": _layers(before, after),
        "latency": {"before": _latency(before), "after": _latency(after)}
        | {"slower_percent": _slower(before, after)},
        "accuracy": {"before": _accuracy(before), "after": _accuracy(after)},
    }


def _about(subject: Subject) -> dict[str, Any]:
    record = subject.manifest.record
    return {
        "name": subject.name,
        "key": subject.manifest.key,
        "engine": subject.engine,
        "finished": record.get("finished"),
        "seconds": record.get("seconds"),
    }


def _key(before: Subject, after: Subject) -> list[Change]:
    return changes(*(_recipe(each) for each in (before, after)))


def _recipe(subject: Subject) -> dict[str, Any]:
    """The key as the author of a spec knows it: `profiles`, not `recipe.profiles`."""
    key = dict(subject.manifest.key_document)
    return {**key.pop("recipe", {}), **key}


def _precision(subject: Subject) -> str | None:
    return subject.manifest.record.get("precision")


def _layers(before: Subject, after: Subject) -> dict[str, Any]:
    if before.layers is None or after.layers is None:
        missing = before if before.layers is None else after
        return {"compared": False, "why": f"{missing.name}: {missing.no_layers}"}
    found: Compared = compare_layers(before.layers, after.layers)
    return {
        "compared": True,
        "same": found.same,
        "added": [dict(each) for each in found.added],
        "removed": [dict(each) for each in found.removed],
        "changed": [
            {
                "name": each.name,
                "changes": [
                    {"leaf": word, "before": old, "after": new} for word, old, new in each.changes
                ],
            }
            for each in found.changed
        ],
    }


def _latency(subject: Subject) -> dict[str, Any] | None:
    measured = subject.latency
    if measured is None:
        return None
    gpu = measured.get("gpu") or {}
    return {
        "median_ms": time_of(measured, "median"),
        "p99_ms": time_of(measured, "p99"),
        "gpu": gpu.get("name"),
        "held_down_by": held_down({"gpu": gpu}),
    }


def _slower(before: Subject, after: Subject) -> float | None:
    """Of the medians in percent; None where they were not measured on GPUs of one name."""
    one, other = before.latency, after.latency
    if one is None or other is None:
        return None
    names = [(each.get("gpu") or {}).get("name") for each in (one, other)]
    return slower_percent(other, one) if names[0] == names[1] else None


def _accuracy(subject: Subject) -> dict[str, Any] | None:
    return None if subject.accuracy is None else worst(subject.accuracy["outputs"])


def difference_lines(found: Mapping[str, Any], *, everything: bool) -> Iterator[str]:
    """What differs, a fact a line; `everything` names every layer."""
    for word, mark in (("before", "-"), ("after", "+")):
        each = found[word]
        when = f", built {each['finished'][:19]}" if each["finished"] else ""
        yield f"{mark} {each['name']}  engine {each['engine'][7:19]}{when}"
    if found["same_file"]:
        yield "  the same engine file, to the last bit"
    yield from _key_lines(found["key"])
    for word, told in (("precision", str), ("size", size)):
        one, other = found[word]["before"], found[word]["after"]
        if one != other and None not in (one, other):
            percent = f" ({100 * (other / one - 1):+.1f} %)" if word == "size" and one else ""
            yield f"  {word:10} {told(one)} → {told(other)}{percent}"
    yield from _latency_lines(found["latency"])
    yield from _accuracy_lines(found["accuracy"])
    yield from _layer_lines(found["layers"], None if everything else _FEW)


def _key_lines(leaves: list[Mapping[str, Any]]) -> Iterator[str]:
    if not leaves:
        yield "  key        the same: asked for alike"
    for each in leaves:
        change = Change(leaf=each["leaf"], before=each["before"], after=each["after"])
        yield f"  key        {change}"


def _latency_lines(latency: Mapping[str, Any]) -> Iterator[str]:
    one, other = latency["before"], latency["after"]
    if one is None or other is None:
        yield from _lacking("latency", one, other, "measured: engineforge bench")
        return
    if latency["slower_percent"] is None:
        yield f"  latency    not comparable: on {one['gpu']}, and on {other['gpu']}"
        return
    for word in ("median_ms", "p99_ms"):
        percent = f" ({latency['slower_percent']:+.1f} %)" if word == "median_ms" else ""
        name = word.removesuffix("_ms")
        yield f"  latency    {name} {one[word]:.4g} → {other[word]:.4g} ms{percent}"
    for each in (one, other):
        if each["held_down_by"]:
            yield f"  latency    held down by {', '.join(each['held_down_by'])}"


def _lacking(what: str, one: object, other: object, how: str) -> Iterator[str]:
    """Which of two has no such figure; nothing where neither has."""
    if one is not other:
        which = "the first" if one is None else "the second"
        yield f"  {what:10} {which} was never {how}"


def _accuracy_lines(accuracy: Mapping[str, Any]) -> Iterator[str]:
    one, other = accuracy["before"], accuracy["after"]
    if one is None or other is None:
        yield from _lacking("accuracy", one, other, "checked: engineforge check --engine")
        return
    for measure in MEASURES:
        if measure.name in one and measure.name in other:
            values = (measure.text(each[measure.name]) for each in (one, other))
            yield f"  accuracy   {' → '.join(values)}"


def _layer_lines(layers: Mapping[str, Any], most: int | None) -> Iterator[str]:
    if not layers["compared"]:
        yield f"  layers     cannot be compared: {layers['why']}"
        return
    counts = [
        f"{layers['same']} the same",
        *(f"{len(layers[word])} {word}" for word in ("changed", "added", "removed")),
    ]
    yield f"  layers     {', '.join(counts)}"
    lines: list[str] = []
    for each in layers["changed"]:
        lines.append(f"    ~ {each['name']}")
        lines += [
            f"        {c['leaf']} {c['before'] or 'none'} → {c['after'] or 'none'}"
            for c in each["changes"]
        ]
    for word, mark in (("removed", "-"), ("added", "+")):
        for each in layers[word]:
            about = "  ".join(filter(None, (precision(each), tactic(each))))
            lines.append(f"    {mark} {each['name']}" + (f"  {about}" if about else ""))
    yield from lines[:most]
    if most is not None and len(lines) > most:
        yield f"    and {counted(len(lines) - most, 'line')} more: --all has them"
