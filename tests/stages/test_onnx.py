"""Inspection and the canonical form of ONNX models."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engineforge.digest import Digest, digest_bytes, digest_file
from engineforge.stages.sources import onnx as source
from engineforge.stages.sources.onnx import ModelError
from tests.models import branches, convnet, save


def _canonical(path: Path) -> bytes:
    interface = source.inspect(path)
    external = {name: digest_file(path.parent / name) for name in interface.external}
    return source.canonicalize(path, source.by_content(path, external))[0]


def test_the_canonical_form_ignores_documentation_producer_and_value_info(tmp_path: Path) -> None:
    plain = convnet(tmp_path / "a.onnx")
    dressed = onnx.load(convnet(tmp_path / "b.onnx", doc="words", producer="other"))
    dressed.producer_version = "9"
    dressed.model_version = 7
    dressed.metadata_props.add(key="path", value="/home/somebody")
    dressed.graph.name = "another name"
    dressed.graph.node[0].metadata_props.add(key="stack_trace", value="File ...")
    inferred = onnx.shape_inference.infer_shapes(dressed)
    assert inferred.graph.value_info
    onnx.save(inferred, tmp_path / "b.onnx")
    assert _canonical(tmp_path / "b.onnx") == _canonical(plain)


@pytest.mark.parametrize("change", ["weights", "node name", "tensor name", "opset", "dimension"])
def test_the_canonical_form_keeps_what_an_engine_depends_on(tmp_path: Path, change: str) -> None:
    path = convnet(tmp_path / "a.onnx", channels=64)
    before = _canonical(path)
    model = onnx.load(path)
    match change:
        case "weights":
            data = bytearray(model.graph.initializer[0].raw_data)
            data[0] ^= 1
            model.graph.initializer[0].raw_data = bytes(data)
        case "node name":
            model.graph.node[0].name = "other"
        case "tensor name":
            model.graph.node[0].output[0] = model.graph.node[1].input[0] = "other"
        case "opset":
            model.opset_import[0].version = 18
        case "dimension":
            model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 32
    onnx.save(model, path)
    assert _canonical(path) != before


def test_the_canonical_form_is_pinned(tmp_path: Path) -> None:
    """If this fails, raise CANONICAL_FORMAT: every model of every user is imported again."""
    assert digest_bytes(_canonical(convnet(tmp_path / "a.onnx"))) == Digest(
        "sha256:072e438080fe116fa5c61da024b00a0e928d0bf382c7c276eb123c9f805be79b"
    )


def test_names_that_name_nothing_are_no_names(tmp_path: Path) -> None:
    path = convnet(tmp_path / "a.onnx", dims=["?", 3, "?", "?"])
    assert source.inspect(path).inputs[0].dims == (None, 3, None, None)
    model = onnx.ModelProto()
    model.ParseFromString(_canonical(path))
    dims = model.graph.input[0].type.tensor_type.shape.dim
    assert [dim.WhichOneof("value") for dim in dims] == [None, "dim_value", None, None]


def test_external_files_are_found_from_the_tensors_and_keyed_by_content(tmp_path: Path) -> None:
    path = convnet(tmp_path / "a.onnx", external="weights.bin")
    assert source.inspect(path).external == ("weights.bin",)
    renamed = convnet(tmp_path / "b.onnx", external="other.bin")
    assert _canonical(path) == _canonical(renamed)


def test_a_bound_model_loads_with_all_its_weights(tmp_path: Path) -> None:
    for name, external in (("inline", None), ("external", "weights.bin")):
        path = convnet(tmp_path / name / "net.onnx", channels=64, external=external)
        folder = tmp_path / name / "bound"
        folder.mkdir()
        bound = onnx.load(source.bind(path, folder), load_external_data=False)
        original = onnx.load(path)
        for tensor, whole in zip(bound.graph.initializer, original.graph.initializer, strict=True):
            refer = {entry.key: entry.value for entry in tensor.external_data}
            with (folder / refer["location"]).open("rb") as file:
                file.seek(int(refer["offset"]))
                assert file.read(int(refer["length"])) == whole.raw_data


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/passwd", "sub/../../weights.bin"])
def test_external_data_outside_the_models_folder_is_refused(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "models"
    path = convnet(folder / "net.onnx", external="weights.bin")
    (tmp_path / "weights.bin").write_bytes((folder / "weights.bin").read_bytes())
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        tensor.external_data[0].value = location
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="outside the model's folder"):
        source.inspect(path)


def test_external_data_behind_a_link_that_leads_outside_is_refused(tmp_path: Path) -> None:
    path = convnet(tmp_path / "models" / "net.onnx", external="weights.bin")
    (tmp_path / "models" / "weights.bin").rename(tmp_path / "weights.bin")
    (tmp_path / "models" / "weights.bin").symlink_to("../weights.bin")
    with pytest.raises(ModelError, match="outside the model's folder"):
        source.inspect(path)


def test_a_missing_external_file_is_named_with_its_tensor(tmp_path: Path) -> None:
    path = convnet(tmp_path / "net.onnx", external="weights.bin")
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match=r"'weights.bin' is missing: 'net.onnx'.*'conv.weight'"):
        source.inspect(path)


def test_a_truncated_external_file_is_noticed(tmp_path: Path) -> None:
    path = convnet(tmp_path / "net.onnx", external="weights.bin")
    os.truncate(tmp_path / "weights.bin", 100)
    with pytest.raises(ModelError, match=r"'weights\.bin' is truncated"):
        source.inspect(path)


def test_external_data_in_subgraphs_is_found(tmp_path: Path) -> None:
    big = numpy_helper.from_array(np.ones((32, 32), np.float32), "big")
    raw, big.raw_data = big.raw_data, b""
    (tmp_path / "deep.bin").write_bytes(raw)
    big.ClearField("raw_data")
    big.data_location = TensorProto.EXTERNAL
    big.external_data.add(key="location", value="deep.bin")
    path = branches(tmp_path / "m.onnx", big)
    assert source.inspect(path).external == ("deep.bin",)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "the file is empty"), (b"\x00" * 50, "field of number 0"), (b"no model at all", "ONNX")],
)
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=said):
        source.inspect(path)


def test_an_invalid_graph_is_refused_by_onnx_checker(tmp_path: Path) -> None:
    model = onnx.load(convnet(tmp_path / "net.onnx"))
    model.graph.node[1].input[0] = "nowhere"
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(ModelError, match="nowhere"):
        source.inspect(tmp_path / "net.onnx")


def test_operators_that_onnx_does_not_know_are_left_to_tensorrt(tmp_path: Path) -> None:
    model = onnx.load(convnet(tmp_path / "net.onnx"))
    model.graph.node[1].op_type = "EfficientNMS_TRT"
    onnx.save(model, tmp_path / "net.onnx")
    assert source.inspect(tmp_path / "net.onnx").nodes == 5


def test_scales_that_are_not_fp32_are_told(tmp_path: Path) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["n", 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT16, ["n", 3])
    weights = [
        helper.make_tensor("scale", TensorProto.FLOAT16, [], [0.5]),
        helper.make_tensor("zero", TensorProto.INT8, [], [0]),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], name="/q"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"], name="/dq"),
    ]
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.save(model, tmp_path / "m.onnx")
    assert source.inspect(tmp_path / "m.onnx").features["low-scales"] == "/q"


@pytest.mark.parametrize(("opset", "expected"), [(17, {}), (18, {"reduce-axes": "/mean"})])
def test_axes_of_reductions_are_told_where_they_are_inputs(
    opset: int, expected: dict[str, str], tmp_path: Path
) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    inputs = ["x", "axes"] if opset == 18 else ["x"]
    node = helper.make_node("ReduceMean", inputs, ["y"], name="/mean", keepdims=0)
    if opset == 17:
        node.attribute.append(helper.make_attribute("axes", [1]))
    graph = helper.make_graph([node], "g", [x], [y], [axes] if opset == 18 else [])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, tmp_path / "m.onnx")
    assert source.inspect(tmp_path / "m.onnx").features == expected


@pytest.mark.parametrize(
    ("elem_type", "feature"),
    [(TensorProto.FLOAT16, "fp16"), (TensorProto.BFLOAT16, "bf16"), (TensorProto.FLOAT, None)],
)
def test_features_name_the_types_of_the_graph(
    tmp_path: Path, elem_type: int, feature: str | None
) -> None:
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["x"], ["c"], to=elem_type),
            helper.make_node("Cast", ["c"], ["y"], to=1),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
    )
    features = source.inspect(save(graph, tmp_path / "m.onnx")).features
    assert features == ({} if feature is None else {feature: "c"})


def test_matrix_products_in_fp32_are_a_feature_with_their_node(tmp_path: Path) -> None:
    assert source.inspect(convnet(tmp_path / "net.onnx")).features == {"fp32-gemm": "/head/Gemm"}
