"""Keys: every field counts, and the world is not re-keyed by accident."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from engineforge.digest import Digest, digest_bytes, digest_value, document
from engineforge.plan.explain import changes
from engineforge.plan.keys import (
    CalibrationRecipe,
    CheckKey,
    EngineCheckKey,
    EngineKey,
    EngineRecipe,
    LatencyKey,
    NetworkKey,
    OnnxKey,
    PlanKey,
    PreparedKey,
    SamplesRecipe,
    SourceKey,
    TypedKey,
    TypedRecipe,
    reading,
    recipe,
)
from engineforge.spec.model import (
    ArrayFiles,
    DataSet,
    ImageFolder,
    Precision,
    PythonFunction,
    Variant,
)
from engineforge.spec.sources import Preparation
from tests.backends.test_options import target as classic_target

_RECIPE = EngineRecipe(
    profiles=({"x": {"shape": {"min": [1], "opt": [2], "max": [4]}}},),
    builder={"tf32": True, "workspace": 1},
    target={"compute_capabilities": ["8.9"], "platform": "linux-x86_64"},
    toolchain={"backend": "tensorrt_rtx", "version": "1.7.1.116", "cuda": "13"},
)
_ONNX = OnnxKey(canonical=1, model=digest_bytes(b"model"), external=(digest_bytes(b"weights"),))
_NETWORK = NetworkKey(
    defining=1,
    function="build",
    arguments="{}",
    weights=".npz",
    files=(digest_bytes(b"nets.py"),),
    names=("nets.py",),
    packages={"layers": "1.0"},
)
_PLAN = PlanKey(onnx=_ONNX, engine=_RECIPE)
_SOURCE = SourceKey(
    exporting=1,
    kind="pytorch",
    files=(digest_bytes(b"nets.py"),),
    recipe={"function": "make"},
    inputs=({"name": "x", "type": "float32", "dims": [None, 3], "example": [2, 3]},),
    versions={"torch": "2"},
)
_PREPARED = PreparedKey(
    preparing=1,
    model=digest_bytes(b"model"),
    external=(digest_bytes(b"weights"),),
    prepare=Preparation(simplify=True),
    outputs=("logits",),
    versions={"onnxslim": "0.1"},
)
_SAMPLES = SamplesRecipe(
    files=digest_bytes(b"samples"), reading={"kind": "ArrayFiles"}, samples=256, seed=None
)
_CALIBRATION = CalibrationRecipe(data=_SAMPLES, method="max", percentile=None)
_TYPED = TypedRecipe(
    format=1,
    precision="int8",
    tool="onnxruntime",
    versions={"onnxruntime": "1.31"},
    keep_fp32=("/head/*",),
    high_precision="fp16",
    block_size=None,
    sparsity=None,
    keep_io_types=True,
    calibration=_CALIBRATION,
)
_TYPED_KEY = TypedKey(model=digest_bytes(b"m"), external=(), recipe=_TYPED)
_CHECK = CheckKey(
    measuring=1,
    versions={"onnxruntime": "1.31"},
    source=(digest_bytes(b"m"),),
    typed=(digest_bytes(b"t"),),
    data=_SAMPLES,
    labels="label",
    class_axis=-1,
)
_ENGINE_CHECK = EngineCheckKey(
    measuring=1,
    versions={"onnxruntime": "1.23.2"},
    engine=digest_bytes(b"e"),
    plugins=(),
    source=(digest_bytes(b"m"),),
    data=_SAMPLES,
    labels="label",
    class_axis=-1,
    gpu={"name": "NVIDIA H200"},
    driver="580.159.04",
)
_LATENCY = LatencyKey(
    measuring=1,
    engine=digest_bytes(b"e"),
    plugins=(),
    point={"profile": 0, "at": "opt"},
    settings={"streams": 1},
    gpu={"name": "NVIDIA H200"},
    driver="580.159.04",
    number=0,
)
_ENGINE = EngineKey(model=digest_bytes(b"m"), external=(), recipe=_RECIPE)

# One other value for each field of each key. A field without one fails the test below.
_OTHERS: dict[type, dict[str, object]] = {
    SourceKey: {
        "format": 2,
        "exporting": 2,
        "kind": "tensorflow",
        "files": (),
        "recipe": {"function": "other"},
        "inputs": (),
        "versions": {"torch": "3"},
    },
    PreparedKey: {
        "format": 2,
        "preparing": 2,
        "model": digest_bytes(b"other"),
        "external": (),
        "prepare": Preparation(infer_shapes=True),
        "outputs": ("logits", "features"),
        "versions": {"onnxslim": "0.2"},
    },
    OnnxKey: {"format": 2, "canonical": 2, "model": digest_bytes(b"other"), "external": ()},
    NetworkKey: {
        "format": 2,
        "defining": 2,
        "function": "other",
        "arguments": '{"width": 2}',
        "weights": None,
        "files": (),
        "names": ("other.py",),
        "packages": {"layers": "1.1"},
    },
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
    SamplesRecipe: {
        "files": digest_bytes(b"other"),
        "reading": {"kind": "ImageFolder"},
        "samples": 255,
        "seed": 0,
    },
    CalibrationRecipe: {
        "data": dataclasses.replace(_SAMPLES, samples=None),
        "method": "entropy",
        "percentile": "99.9",
    },
    TypedRecipe: {
        "format": 2,
        "precision": "fp8",
        "tool": "modelopt",
        "versions": {"onnxruntime": "1.32"},
        "keep_fp32": (),
        "high_precision": "bf16",
        "block_size": 64,
        "sparsity": "2:4",
        "keep_io_types": False,
        "calibration": None,
    },
    TypedKey: {
        "format": 2,
        "model": digest_bytes(b"other"),
        "external": (digest_bytes(b"other"),),
        "recipe": dataclasses.replace(_TYPED, precision="fp16"),
    },
    CheckKey: {
        "format": 2,
        "measuring": 2,
        "versions": {},
        "source": (),
        "typed": (),
        "data": dataclasses.replace(_SAMPLES, samples=None),
        "labels": None,
        "class_axis": 1,
    },
    EngineCheckKey: {
        "format": 2,
        "measuring": 2,
        "versions": {"onnxruntime": "1.24.0"},
        "engine": digest_bytes(b"other"),
        "plugins": ("sha256:1",),
        "source": (),
        "data": dataclasses.replace(_SAMPLES, samples=None),
        "labels": None,
        "class_axis": 1,
        "gpu": {"name": "NVIDIA H100"},
        "driver": "580.200.00",
    },
    LatencyKey: {
        "format": 2,
        "measuring": 2,
        "engine": digest_bytes(b"other"),
        "plugins": ("sha256:1",),
        "point": {"profile": 0, "at": "max"},
        "settings": {"streams": 2},
        "gpu": {"name": "NVIDIA H100"},
        "driver": "580.200.00",
        "number": 1,
    },
    PlanKey: {
        "format": 2,
        "onnx": dataclasses.replace(_ONNX, canonical=2),
        "typed": _TYPED,
        "engine": dataclasses.replace(_RECIPE, profiles=()),
    },
}


_KEYS = [
    _ONNX,
    _NETWORK,
    _SOURCE,
    _PREPARED,
    _SAMPLES,
    _CALIBRATION,
    _TYPED,
    _TYPED_KEY,
    _CHECK,
    _ENGINE_CHECK,
    _LATENCY,
    _RECIPE,
    _ENGINE,
    _PLAN,
]


@pytest.mark.parametrize("key", _KEYS, ids=lambda k: type(k).__name__)
def test_each_field_changes_the_digest(key: Any) -> None:  # noqa: ANN401 - any of the keys
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
    assert digest_value(_TYPED_KEY) == Digest(
        "sha256:712e877da869f07c24faa558cbfb34ed1cae784faaa90c7f39e48ba76d6f70fa"
    )
    assert digest_value(_CHECK) == Digest(
        "sha256:df53b0e5a69854e04131b40d70461987f98cf2b66286e9f6e18810d41c66d844"
    )
    assert digest_value(_ENGINE_CHECK) == Digest(
        "sha256:e612201ed9ea4820537d27d06a651dc37e4d0be4fab53fa233040ba2aeb9404b"
    )
    assert digest_value(_LATENCY) == Digest(
        "sha256:525bf2ee03829643b8a263b434bcfaeda2bea958d704a517adb3cec01a112706"
    )


def test_explaining_names_exactly_the_leaf_that_changed() -> None:
    other = dataclasses.replace(
        _PLAN, engine=dataclasses.replace(_RECIPE, builder={"tf32": True, "workspace": 2})
    )
    (change,) = changes(document(_PLAN), document(other))
    assert str(change) == "builder.workspace 1 → 2"


def test_explaining_names_files_rather_than_digests() -> None:
    other = dataclasses.replace(_PLAN, onnx=dataclasses.replace(_ONNX, model=digest_bytes(b"n")))
    (change,) = changes(document(_PLAN), document(other), {"onnx.model": "model 'net.onnx'"})
    assert str(change).startswith("model 'net.onnx' changed (")


def test_a_precision_that_was_not_there_is_explained_leaf_by_leaf() -> None:
    found = changes(document(_PLAN), document(dataclasses.replace(_PLAN, typed=_TYPED)))
    said = [str(change) for change in found]
    assert "precision none → int8" in said
    assert "calibration.method none → max" in said
    assert all("none → none" not in each for each in said)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (ArrayFiles(path="a.npz"), ArrayFiles(path="b/c.npz")),
        (ImageFolder(path="a"), ImageFolder(path="b")),
        (PythonFunction(function="a:f", files=("x",)), PythonFunction(function="b.c:f")),
    ],
    ids=lambda data: type(data).__name__,
)
def test_where_samples_are_is_in_no_key(one: DataSet, other: DataSet) -> None:
    assert reading(one) == reading(other)


def test_how_samples_are_read_is_in_the_key() -> None:
    assert reading(ImageFolder(path="a")) != reading(ImageFolder(path="a", divide="1"))
    assert reading(PythonFunction(function="a:f")) != reading(PythonFunction(function="a:g"))


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
    variant = Variant(
        spec="s", name="v", precision=Precision(name="fp32"), profiles=(), builder={}, target=target
    )
    found = recipe(variant, {"hardware_compatibility": level}).target
    assert sorted(found) == identity
    if level == "same_compute_capability":
        assert found["gpu"] == {"compute_capability": "9.0"}
