"""Keys: every field counts, and the world is not re-keyed by accident."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from engineforge.digest import Digest, digest_bytes, digest_value, document
from engineforge.plan.explain import changes
from engineforge.plan.keys import EngineKey, EngineRecipe, OnnxKey, PlanKey, recipe
from engineforge.spec.model import Variant
from tests.backends.test_options import target as classic_target

_RECIPE = EngineRecipe(
    profiles=({"x": {"shape": {"min": [1], "opt": [2], "max": [4]}}},),
    builder={"tf32": True, "workspace": 1},
    target={"compute_capabilities": ["8.9"], "platform": "linux-x86_64"},
    toolchain={"backend": "tensorrt_rtx", "version": "1.7.1.116", "cuda": "13"},
)
_ONNX = OnnxKey(canonical=1, model=digest_bytes(b"model"), external=(digest_bytes(b"weights"),))
_PLAN = PlanKey(onnx=_ONNX, engine=_RECIPE)
_ENGINE = EngineKey(model=digest_bytes(b"m"), external=(), recipe=_RECIPE)

# One other value for each field of each key. A field without one fails the test below.
_OTHERS: dict[type, dict[str, object]] = {
    OnnxKey: {"format": 2, "canonical": 2, "model": digest_bytes(b"other"), "external": ()},
    EngineRecipe: {
        "profiles": (),
        "builder": {"tf32": False},
        "target": {"platform": "linux-aarch64"},
        "toolchain": {"backend": "tensorrt"},
    },
    EngineKey: {
        "format": 2,
        "model": digest_bytes(b"other"),
        "external": (digest_bytes(b"other"),),
        "recipe": dataclasses.replace(_RECIPE, profiles=()),
    },
    PlanKey: {
        "format": 2,
        "onnx": dataclasses.replace(_ONNX, canonical=2),
        "typed": {"precision": "fp16"},
        "engine": dataclasses.replace(_RECIPE, profiles=()),
    },
}


@pytest.mark.parametrize("key", [_ONNX, _RECIPE, _ENGINE, _PLAN], ids=lambda k: type(k).__name__)
def test_each_field_changes_the_digest(key: OnnxKey | EngineRecipe | EngineKey | PlanKey) -> None:
    digests = {digest_value(key)}
    for field in dataclasses.fields(key):
        other = _OTHERS[type(key)][field.name]
        changed: Any = {field.name: other}
        digests.add(digest_value(dataclasses.replace(key, **changed)))
    assert len(digests) == len(dataclasses.fields(key)) + 1


def test_the_world_is_not_rekeyed_by_accident() -> None:
    """If this fails, every engine of every user becomes stale: raise KEY_FORMAT on purpose."""
    assert _PLAN.digest() == Digest(
        "sha256:b1cc87216d71374d4fe8b68d4b41dfe8fb50fba9984a45e70e857bc368e65f60"
    )
    assert digest_value(_ENGINE) == Digest(
        "sha256:c625997467c692df8bb971444ff62fabd28fea676ea0688fb5ba917a81b64a57"
    )


def test_explaining_names_exactly_the_leaf_that_changed() -> None:
    other = dataclasses.replace(
        _PLAN, engine=dataclasses.replace(_RECIPE, builder={"tf32": True, "workspace": 2})
    )
    (change,) = changes(document(_PLAN), document(other))
    assert str(change) == "builder.workspace 1 → 2"


def test_explaining_names_files_rather_than_digests() -> None:
    other = dataclasses.replace(_PLAN, onnx=dataclasses.replace(_ONNX, model=digest_bytes(b"n")))
    (change,) = changes(document(_PLAN), document(other), ("net.onnx", "weights.bin"))
    assert str(change).startswith("model 'net.onnx' changed (")


@pytest.mark.parametrize(
    ("level", "identity"),
    [
        ("none", ["gpu", "platform"]),
        ("ampere_plus", ["platform"]),
        ("same_compute_capability", ["gpu", "platform"]),
    ],
)
def test_a_hardware_compatible_engine_is_not_tied_to_one_gpu(
    level: str, identity: list[str]
) -> None:
    target = classic_target("tensorrt", "10.13.3.9")
    variant = Variant(spec="s", name="v", precision="fp32", profiles=(), builder={}, target=target)
    found = recipe(variant, {"hardware_compatibility": level}).target
    assert sorted(found) == identity
    if level == "same_compute_capability":
        assert found["gpu"] == {"compute_capability": "9.0"}
