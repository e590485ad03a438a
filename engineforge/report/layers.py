"""The layers of engines as lines and as JSON, and how those of two differ. Pure: prints nothing."""

from __future__ import annotations

import re
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engineforge.project.subjects import Subject
from engineforge.report.text import counted

Layer = Mapping[str, Any]

# Names that TensorRT generates are numbered by where things lie in memory.
_GENERATED = re.compile(r"__mye[0-9]+")
_COLUMNS = ("ms", "share", "type", "precision", "tactic", "layer")
_NUMBERS = 2
_WIDEST = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class Differing:
    """A layer that both engines have, and in which words it differs: (word, before, after)."""

    name: str
    changes: Sequence[tuple[str, str | None, str | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """`added` are only in the second engine, `removed` only in the first, by name."""

    added: Sequence[Layer]
    removed: Sequence[Layer]
    changed: Sequence[Differing]
    same: int


def precision(layer: Layer) -> str:
    """What a layer gives, and what its weights are where that is something else."""
    given = ", ".join(layer.get("output_types") or layer.get("input_types") or ())
    weights = layer.get("weights_type")
    return f"{given} ({weights} weights)" if weights and weights != given else given


def tactic(layer: Layer) -> str:
    return str(layer.get("tactic") or layer.get("tactic_value") or "")


def compare_layers(before: Sequence[Layer], after: Sequence[Layer]) -> Compared:
    """By name, equal ones in their order; numbers in generated names do not count."""
    waiting: defaultdict[str, deque[Layer]] = defaultdict(deque)
    for each in before:
        waiting[_name(each)].append(each)
    added, changed, same = [], [], 0
    for each in after:
        if not (those := waiting[_name(each)]):
            added.append(each)
            continue
        differing = _changes(those.popleft(), each)
        if differing:
            changed.append(Differing(name=str(each["name"]), changes=differing))
        else:
            same += 1
    left = {id(each) for those in waiting.values() for each in those}
    removed = [each for each in before if id(each) in left]
    return Compared(added=added, removed=removed, changed=changed, same=same)


def _changes(before: Layer, after: Layer) -> list[tuple[str, str | None, str | None]]:
    said = (
        ("type", before.get("type"), after.get("type")),
        ("precision", precision(before), precision(after)),
        ("tactic", tactic(before), tactic(after)),
    )
    return [(word, old or None, new or None) for word, old, new in said if old != new]


def _name(layer: Layer) -> str:
    return _GENERATED.sub("__mye#", str(layer["name"]))


def _timed(subject: Subject) -> list[dict[str, Any]]:
    """Layers with their times, in the order of the engine; what was timed and is not told of
    comes last."""
    times = {str(each["name"]): each for each in subject.profile or ()}
    rows = []
    for each in subject.layers or ():
        found = times.pop(str(each["name"]), None)
        rows.append({**each, **({} if found is None else _time(found))})
    return rows + [{"name": name, **_time(each)} for name, each in times.items()]


def _time(timed: Mapping[str, Any]) -> dict[str, Any]:
    return {"ms": timed["ms"], "share": timed["share"]}


def layers_data(subject: Subject) -> dict[str, Any]:
    return {
        "name": subject.name,
        "key": subject.manifest.key,
        "engine": subject.engine,
        "layers": _timed(subject),
        "why_none": subject.no_layers,
        "profiled": subject.profile is not None,
    }


def layer_lines(subject: Subject) -> Iterator[str]:
    """A table of one engine's layers; those that took longest first where they were timed."""
    rows = _timed(subject)
    if not rows:
        yield f"{subject.name}: no layers: {subject.no_layers}"
        return
    timed = subject.profile is not None
    yield f"{subject.name}: {counted(len(rows), 'layer')}" + (
        "" if timed else ", never timed: engineforge bench --layers"
    )
    if subject.no_layers is not None:
        yield f"  only their times: {subject.no_layers}"
    elif not any(each.keys() - {"name", "ms", "share"} for each in rows):
        yield "  only their names: build with profiling_verbosity: detailed for more"
    if timed:
        rows.sort(key=lambda each: -each.get("ms", 0.0))
    table = [_COLUMNS, *map(_cells, rows)]
    shown = [at for at in range(len(_COLUMNS)) if any(row[at] for row in table[1:])]
    widths = [min(max(len(row[at]) for row in table), _WIDEST) for at in shown[:-1]]
    for row in table:
        cells = [
            f"{row[at]:>{width}}" if at < _NUMBERS else f"{row[at]:{width}}"
            for at, width in zip(shown, widths, strict=False)
        ]
        # The name comes last: a fused layer's may be as long as the screen.
        yield "  " + "  ".join([*cells, row[shown[-1]]]).rstrip()


def _cells(layer: Layer) -> tuple[str, ...]:
    timed = "ms" in layer
    return (
        f"{layer['ms']:.4f}" if timed else "",
        f"{layer['share']:.1%}" if timed else "",
        str(layer.get("type", "")),
        precision(layer),
        tactic(layer),
        str(layer["name"]),
    )
