"""Models read without their weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from engineforge.stages.sources.skeleton import IN_FILE, INLINE_BYTES, Malformed, read_skeleton
from tests.models import branches, convnet, save


def _skeleton(path: Path) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.ParseFromString(read_skeleton(path))
    return model


def _refer(tensor: onnx.TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def test_large_weights_are_referred_to_at_their_bytes(tmp_path: Path) -> None:
    path = convnet(tmp_path / "net.onnx", channels=64)
    whole = onnx.load(path)
    data = path.read_bytes()
    for tensor, original in zip(
        _skeleton(path).graph.initializer, whole.graph.initializer, strict=True
    ):
        refer = _refer(tensor)
        assert refer["location"] == IN_FILE
        start = int(refer["offset"])
        assert data[start : start + int(refer["length"])] == original.raw_data


def test_small_tensors_stay_in_the_graph(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "c"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
        [numpy_helper.from_array(np.ones(4, np.float32), "c")],
    )
    path = save(graph, tmp_path / "m.onnx")
    assert _skeleton(path) == onnx.load(path)


def test_weights_in_float_data_are_found_too(tmp_path: Path) -> None:
    values = [float(i) for i in range(1000)]
    tensor = helper.make_tensor("c", TensorProto.FLOAT, [1000], values)
    assert tensor.float_data
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "c"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1000])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1000])],
        [tensor],
    )
    path = save(graph, tmp_path / "m.onnx")
    refer = _refer(_skeleton(path).graph.initializer[0])
    start, length = int(refer["offset"]), int(refer["length"])
    found = np.frombuffer(path.read_bytes()[start : start + length], "<f4")
    assert found.tolist() == values


def test_weights_in_subgraphs_and_attributes_are_found(tmp_path: Path) -> None:
    big = numpy_helper.from_array(np.ones((32, 32), np.float32), "big")
    path = branches(tmp_path / "m.onnx", big)
    for attribute in _skeleton(path).graph.node[0].attribute:
        tensor = attribute.g.node[0].attribute[0].t
        assert _refer(tensor)["length"] == str(32 * 32 * 4)


def test_a_file_truncated_at_any_byte_is_refused_or_reads_as_protobuf(tmp_path: Path) -> None:
    whole = convnet(tmp_path / "net.onnx").read_bytes()
    cut = tmp_path / "cut.onnx"
    refused = 0
    for length in range(0, len(whole), 7):
        cut.write_bytes(whole[:length])
        try:
            read_skeleton(cut)
        except Malformed:
            refused += 1
    assert refused > 0.95 * len(range(0, len(whole), 7))


@given(st.binary(min_size=1, max_size=4000))
@settings(max_examples=200, deadline=None)
def test_arbitrary_bytes_never_do_more_than_malformed(data: bytes) -> None:
    import tempfile

    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        try:
            read_skeleton(Path(file.name))
        except Malformed as error:
            assert str(error)


def test_an_empty_file_is_said_to_be_empty(tmp_path: Path) -> None:
    path = tmp_path / "empty.onnx"
    path.touch()
    with pytest.raises(Malformed, match="empty"):
        read_skeleton(path)


def test_the_threshold_is_a_kilobyte() -> None:
    assert INLINE_BYTES == 1024
