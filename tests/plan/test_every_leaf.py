"""Property: whatever leaf of a spec or target is changed, the variant is stale, and the explanation
names just that leaf; whatever does not reach an engine leaves it up to date."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engineforge.backends.options import resolve
from engineforge.digest import digest_bytes, document
from engineforge.plan.explain import changes
from engineforge.plan.keys import OnnxKey, PlanKey, recipe
from engineforge.spec.load import load
from engineforge.spec.matrix import expand, parse_targets
from engineforge.spec.validate import validate

_SPEC: dict[str, Any] = {
    "description": "for people",
    "model": {"source": {"path": "models/net.onnx"}},
    "profiles": [
        {"x": {"min": [1, 8], "opt": [4, 16], "max": [8, 32]}},
        {"x": {"min": [2, 8], "opt": [4, 16], "max": [64, 32]}},
    ],
    "builder": {
        "tf32": True,
        "workspace": 1073741824,
        "profiling_verbosity": "detailed",
        "tensorrt_rtx": {"weight_streaming": True},
    },
    "targets": ["ada"],
    "variants": {"fp32": {"description": "words", "builder": {"max_aux_streams": 2}}},
    "checks": {"latency": {"max_p99_ms": 5, "max_median_ms": 3, "profile": "opt"}},
}
_TARGETS: dict[str, Any] = {
    "ada": {
        "backend": "tensorrt_rtx",
        "version": "1.7.1.116",
        "cuda": "13",
        "platform": "linux-x86_64",
        "compute_capabilities": ["8.9"],
        "builder": {"strict_nans": True},
    }
}
# For text, another word that is valid in the same place.
_WORDS = {
    "detailed": "none",
    "1.7.1.116": "1.7.1.117",
    "13": "12",
    "linux-x86_64": "linux-aarch64",
    "8.9": "8.6",
    "tensorrt_rtx": None,
    "models/net.onnx": "models/renamed.onnx",
    "ada": None,
    "for people": "for others",
    "words": "other words",
    "opt": "max",
}
_NOT_KEYED = ("description", "model.source.path", "checks", "variants.fp32.description")


def _leaves(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _leaves(item, (*path, index))
    else:
        yield path


def _at(tree: Any, path: tuple[str | int, ...]) -> Any:  # noqa: ANN401
    for part in path:
        tree = tree[part]
    return tree


def _key(spec: dict[str, Any], targets: dict[str, Any]) -> PlanKey:
    def document_of(kind: str, value: object) -> Any:  # noqa: ANN401
        made, problems = load(f"{kind}.yaml", yaml.safe_dump(value).encode())
        assert made is not None
        assert not problems
        assert not validate(kind, made)
        return made

    known, problems = parse_targets(document_of("targets", targets))
    made, more = expand("net", document_of("spec", spec), known, "targets.yaml")
    assert not problems
    assert not more
    (cell,) = made.cells
    onnx = OnnxKey(canonical=1, model=digest_bytes(b"model"), external=())
    return PlanKey(
        onnx=onnx, engine=recipe(cell.variant, resolve(cell.variant.builder, cell.variant.target))
    )


_ALL = [("spec", path) for path in _leaves(_SPEC)] + [("target", p) for p in _leaves(_TARGETS)]


@given(st.sampled_from(_ALL), st.integers(min_value=1, max_value=3))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_leaf_that_counts_is_named_and_no_other(
    leaf: tuple[str, tuple[str | int, ...]], by: int
) -> None:
    kind, path = leaf
    spec, targets = copy.deepcopy(_SPEC), copy.deepcopy(_TARGETS)
    tree = spec if kind == "spec" else targets
    holder, before = _at(tree, path[:-1]), _at(tree, path)
    if isinstance(before, bool):
        holder[path[-1]] = not before
    elif isinstance(before, int):
        # min may fall, opt may move between, max may grow: 1 stays the least.
        holder[path[-1]] = before - 1 if "min" in path and before > 1 else before + by
        if "min" in path and before == 1:
            return
    elif _WORDS[before] is None:
        return
    else:
        holder[path[-1]] = _WORDS[before]
    dotted = ".".join(str(part) for part in path)
    found = changes(document(_key(_SPEC, _TARGETS)), document(_key(spec, targets)))
    if kind == "spec" and dotted.startswith(_NOT_KEYED):
        assert found == []
    else:
        assert len(found) == 1, (dotted, found)
        assert str(path[-1]) in found[0].leaf or str(path[-2]) in found[0].leaf
