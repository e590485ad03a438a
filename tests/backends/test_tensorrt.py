"""The backend on the real TensorRT-RTX: options that hold, and builds that must fail."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from onnx import TensorProto, helper

from engineforge.backends import library
from engineforge.backends.settings import unknown_settings
from tests.conftest import SPEC, Forge
from tests.models import convnet, elementwise, save

# Each set to what is not its default; the engines of those marked differ from the default one.
_OPTIONS: dict[str, tuple[object, bool]] = {
    "tf32": (False, True),
    "sparse_weights": (True, False),
    "weight_streaming": (True, True),
    "strict_nans": (True, False),
    "distributive_independence": (True, False),
    "monitor_memory": (True, False),
    "require_user_allocation": (True, True),
    "direct_io": (True, False),
    "max_aux_streams": (0, False),
    "profiling_verbosity": ("detailed", True),
    "workspace": ("1GiB", True),
    "tactic_shared_memory": ("100KiB", True),
    "preview_features": ({"runtime_activation_resize_10_10": False}, True),
    "io_formats": ({"image": {"formats": ["hwc"]}}, True),
    "debug_tensors": (["relu"], True),
    "mark_unfused_tensors_as_debug_tensors": (True, True),
}


def _manifests(forge: Forge) -> dict[str, dict[str, object]]:
    found = {}
    for engine in forge.engines():
        manifest = json.loads((engine.parent / "manifest.json").read_text())
        found[str(manifest["record"]["variant"])] = manifest
    return found


def test_each_option_that_it_honours_is_set_read_back_and_kept_in_the_manifest(
    forge: Forge,
) -> None:
    variants = "".join(
        f"  with_{name}: {{builder: {{{name}: {json.dumps(value)}}}}}\n"
        for name, (value, _) in _OPTIONS.items()
    )
    forge.spec("net", SPEC + variants)
    result = forge.build()
    assert set(result.outcomes().values()) == {"built"}, result.err
    manifests = _manifests(forge)
    engines = {name: m["files"]["model.engine"]["sha256"] for name, m in manifests.items()}  # type: ignore[index]
    differing = {name for name in _OPTIONS if engines[f"with_{name}"] != engines["fp32"]}
    assert differing == {name for name, (_, differs) in _OPTIONS.items() if differs}


def test_the_table_knows_every_setting_of_the_installed_version() -> None:
    assert unknown_settings(library.load("tensorrt_rtx")) == []


def test_every_option_that_rtx_honours_is_tried_here() -> None:
    from engineforge.backends.options import honoured
    from tests.backends.test_options import target

    honours = {option.name for option in honoured(target("tensorrt_rtx", "1.7.1.116"))}
    assert honours == set(_OPTIONS)


def test_the_manifest_says_what_was_loaded_and_what_it_cost(built: Forge) -> None:
    (manifest,) = _manifests(built).values()
    record = manifest["record"]
    assert isinstance(record, dict)
    assert record["toolchain"]["version"] == record["toolchain"]["library"] == "1.7.1.116"
    assert record["layers"] >= 5
    assert record["peak_memory"] > 50_000_000
    assert record["timing_cache"]["state"].startswith("none")


def test_an_operator_that_tensorrt_lacks_fails_with_its_node(forge: Forge) -> None:
    graph = helper.make_graph(
        [helper.make_node("FooBar", ["image"], ["y"], name="/odd/FooBar")],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, 16, 16])],
    )
    save(graph, forge.model)
    result = forge.build()
    assert result.code == 1
    (failed,) = result.json["variants"]
    assert failed["stage"] == "engine"
    assert "/odd/FooBar" in failed["error"]
    assert "FooBar" in failed["error"]
    assert forge.engines() == []


def test_a_failed_build_does_not_stop_the_rest_under_keep_going(forge: Forge) -> None:
    forge.edit("net", "  fp32: {", "  a-bad: {builder: {workspace: 1B}}\n  fp32: {")
    result = forge.build("--keep-going", "-j1")
    assert result.code == 1
    assert result.outcomes() == {"a-bad@ada": "failed", "fp32@ada": "built"}


def test_without_keep_going_the_rest_is_not_started(forge: Forge) -> None:
    forge.edit("net", "  fp32: {", "  a-bad: {builder: {workspace: 1B}}\n  fp32: {")
    result = forge.build("-j1")
    assert result.code == 1
    assert result.outcomes() == {"a-bad@ada": "failed", "fp32@ada": "skipped"}


def test_variables_that_change_a_build_do_not_reach_it(
    built: Forge, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = built.engines()[0].read_bytes()
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    built.engines()[0].unlink()
    built.build()
    assert built.engines()[0].read_bytes() == first


def test_shapes_of_several_inputs_and_profiles_are_built(forge: Forge) -> None:
    elementwise(forge.model, inputs=[("a", ["n", 4]), ("b", ["n", 4])])
    forge.spec(
        "net",
        """\
model:
  source: {path: models/net.onnx}
profiles:
  - {a: {min: [1, 4], opt: [2, 4], max: [4, 4]}, b: {min: [1, 4], opt: [2, 4], max: [4, 4]}}
  - {a: [8, 4], b: [8, 4]}
targets: [ada, ampere]
""",
    )
    assert set(forge.build().outcomes().values()) == {"built"}


def test_the_engine_is_the_one_that_the_bare_api_builds(forge: Forge, tmp_path: Path) -> None:
    """Canonical form and weights by reference change nothing of what TensorRT makes of a model."""
    import tensorrt_rtx as trt

    convnet(forge.model, channels=64)
    forge.build()
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse_from_file(str(forge.model))
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    profile.set_shape("image", (1, 3, 16, 16), (4, 3, 16, 16), (8, 3, 16, 16))
    config.add_optimization_profile(profile)
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 64 << 30)
    config.set_memory_pool_limit(trt.MemoryPoolType.TACTIC_SHARED_MEMORY, 1 << 30)
    bare = bytes(builder.build_serialized_network(network, config))
    assert forge.engines()[0].read_bytes() == bare


def _reshape(forge: Forge, *, shape_decides: bool) -> None:
    """`x` reshaped to `shape`, or cast and added to it."""
    nodes = (
        [helper.make_node("Reshape", ["x", "shape"], ["y"], name="/reshape")]
        if shape_decides
        else [
            helper.make_node("Cast", ["shape"], ["c"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["x", "c"], ["y"], name="/add"),
        ]
    )
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"] if shape_decides else [2]),
        helper.make_tensor_value_info("shape", TensorProto.INT64, [2]),
    ]
    shape = ["a", "b"] if shape_decides else [2]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)]
    save(helper.make_graph(nodes, "g", inputs, outputs), forge.model)


_VALUES = """\
model: {source: {path: models/net.onnx}}
inputs: {shape: {values: {min: [1, 2], opt: [1, 2], max: [2, 2]}}%s}
targets: [ada]
"""

_X = ", x: {min: [2], opt: [2], max: [4]}"


def test_values_decide_the_shapes_of_a_shape_tensor(forge: Forge) -> None:
    _reshape(forge, shape_decides=True)
    forge.spec("net", _VALUES % _X)
    assert forge.build().outcomes() == {"default@ada": "built"}


def test_a_shape_tensor_without_values_is_named(forge: Forge) -> None:
    _reshape(forge, shape_decides=True)
    text = _VALUES % _X
    forge.spec("net", text.replace("{values: {min: [1, 2], opt: [1, 2], max: [2, 2]}}", "[2]"))
    (failed,) = forge.build().json["variants"]
    assert "'shape' is a shape tensor" in failed["error"]
    assert "values: {min" in failed["error"]


def test_values_of_what_is_no_shape_tensor_are_refused(forge: Forge) -> None:
    _reshape(forge, shape_decides=False)
    forge.spec("net", _VALUES % "")
    (failed,) = forge.build().json["variants"]
    assert "'values' are for shape tensors, and 'shape' is none" in failed["error"]


def test_the_manifest_has_inputs_and_outputs_as_the_engine_has_them(forge: Forge) -> None:
    inputs = [helper.make_tensor_value_info("x", TensorProto.DOUBLE, ["n", 2])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.DOUBLE, ["n", 2])]
    nodes = [helper.make_node("Relu", ["x"], ["y"], name="/relu")]
    save(helper.make_graph(nodes, "g", inputs, outputs), forge.model)
    forge.spec(
        "net", "model: {source: {path: models/net.onnx}}\ninputs: {x: [1, 2]}\ntargets: [ada]\n"
    )
    result = forge.run("build", "specs")
    assert result.code == 0, result.err
    assert "'x' float64 [n, 2] is float32 in the engine" in result.err
    assert "input      'x' float [n, 2]" in forge.run("show", "specs").out


def test_types_that_tensorrt_has_not_are_refused_before_a_build(forge: Forge) -> None:
    inputs = [helper.make_tensor_value_info("x", TensorProto.INT16, [2])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])]
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)]
    save(helper.make_graph(nodes, "g", inputs, outputs), forge.model)
    said = forge.run("check", "specs").err
    assert "TensorRT has no inputs or outputs of the type of 'x' int16 [2]" in said
