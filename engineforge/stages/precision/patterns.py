"""`keep_fp32`: patterns of node names, and `type:` with patterns of operator types."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from onnx import ModelProto

from engineforge.stages.precision.graph import named, nodes

_TYPE = "type:"
_PRODUCTS = ("MatMul", "Gemm")
_FEW = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What patterns mean: the hint for each that means nothing, and the name of the first matrix
    product that one means."""

    unmatched: Mapping[str, str]
    product: str | None


def matches(model: ModelProto, patterns: Iterable[str]) -> dict[str, list[str]]:
    """The nodes that each pattern means, by name in the order of the graph, subgraphs included."""
    every = [(node.name, node.op_type) for node in nodes(model)]
    return {
        pattern: [name for name, type_ in every if _means(pattern, name, type_)]
        for pattern in patterns
    }


def look_up(path: Path, patterns: Sequence[str]) -> Found:
    """What patterns mean in the model of a file."""
    model = named(path)
    found = matches(model, patterns)
    kept = {name for names in found.values() for name in names}
    products = (n.name for n in nodes(model) if n.op_type in _PRODUCTS and n.name in kept)
    return Found(
        unmatched={each: nearest(model, each) for each, names in found.items() if not names},
        product=next(products, None),
    )


def nearest(model: ModelProto, pattern: str) -> str:
    """What the writer of a pattern that means nothing may have meant."""
    if pattern.startswith(_TYPE):
        known = sorted({node.op_type for node in nodes(model)})
        word, what = pattern.removeprefix(_TYPE), "operator types"
    else:
        known = list(dict.fromkeys(node.name for node in nodes(model)))
        word, what = pattern, "nodes"
    # Case and position are what people get wrong.
    plain = {each.lower(): each for each in reversed(known)}
    close = difflib.get_close_matches(word.lower().strip("*"), plain, n=_FEW, cutoff=0.5)
    names = [plain[each] for each in close] or known[:_FEW]
    return f"{what} of the model: " + ", ".join(f"'{name}'" for name in names)


def _means(pattern: str, name: str, type_: str) -> bool:
    if pattern.startswith(_TYPE):
        return fnmatchcase(type_, pattern.removeprefix(_TYPE))
    return fnmatchcase(name, pattern)
