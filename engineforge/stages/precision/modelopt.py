"""NVIDIA ModelOpt as a tool: AutoCast for FP16 and BF16, its post-training quantization for INT8,
FP8 and INT4.

The parts of the library are called one by one, since its two entry points raise the opset, fuse
and rename nodes, and calibrate on random numbers when they are given no data.
"""

from __future__ import annotations

import gc
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from modelopt.onnx import utils as library
from modelopt.onnx.quantization import fp8, int4, int8
from modelopt.onnx.quantization.graph_utils import (
    find_nodes_from_matmul_to_exclude,
    find_nodes_from_mha_to_exclude,
)
from modelopt.onnx.quantization.qdq_utils import qdq_to_dq
from numpy.typing import NDArray
from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    ValueInfoProto,
    numpy_helper,
)
from onnxruntime.quantization.calibrate import CalibrationDataReader

from engineforge.stages.precision.autocast import exactly, lower, pass_on, peaks_of
from engineforge.stages.precision.contained import ModelOptFailed, contained
from engineforge.stages.precision.quantization import Feeds, Quantization
from engineforge.stages.sources.onnx import read_model

# Protobuf ends at 2 GiB; graphs grow while they are converted.
_INLINE_BYTES = 1 << 28
# AWQ holds its samples and one layer's activations for all of them; AutoAWQ takes as many.
_AWQ_SAMPLES = 128
# Matrices with fewer rows or columns are left out by the library: tensor cores do not help them.
_NARROW = 16
_QDQ = ("QuantizeLinear", "DequantizeLinear")
_BLOCK_SIZE = 128
_TAKES = {
    "int8": "it takes convolutions of 8 channels and matrices of 16 rows and columns or more",
    "fp8": "it takes convolutions of 17 channels and matrices of 16 rows and columns or more",
    "int4": "it takes matrices with whole blocks of weights along the inner dimension",
}
_INT4_METHODS = {"rtn": "rtn_dq", "awq_clip": "awq_clip", "awq_lite": "awq_lite"}


def cast(
    model: Path,
    *,
    to: str,
    keep: Sequence[str],
    keep_io_types: bool,
    feeds: Feeds | None,
    scratch: Path,
) -> ModelProto:
    """The model with every node but those of `keep` in `to` (fp16, bf16).

    For fp16, nodes whose weights are out of its range stay fp32, and with `feeds` those whose
    inputs or outputs go above 512 on any sample; without, nothing is run.
    """
    with contained(scratch):
        skeleton = _readable(model)
        peaks = peaks_of(model, feeds) if feeds and to == "fp16" else {}
        lowered = lower(onnx.load(model), to, keep=keep, keep_io_types=keep_io_types, peaks=peaks)
        return _tidy(lowered, skeleton)


def quantize(
    model: Path, *, request: Quantization, feeds: Feeds | None, scratch: Path
) -> ModelProto:
    """The model with quantized weights and, for int8 and fp8, activations, whose ranges come from
    `feeds`. int8 and fp8 weights are stored as such; int4 is for Gemm and MatMul alone.

    What is not quantized gets the type `request.high_precision`, as `cast` does it.
    """
    if feeds is None and request.method != "rtn":
        raise ModelOptFailed(
            f"'{request.to}' by method '{request.method}' needs calibration data, found none",
            hint="write calibration: {data: samples.npz}; ranges are never made up",
        )
    with contained(scratch):
        skeleton = _readable(model)
        low = request.high_precision
        peaks = peaks_of(model, feeds) if feeds and low == "fp16" else {}
        # With no reader the library makes up samples, also where no method asks for any.
        samples = feeds or (lambda: iter(()))
        quantized = _int4 if request.to == "int4" else _int8_or_fp8
        result = quantized(onnx.load(model), request, samples)
        if not any(node.op_type in _QDQ for node in result.graph.node):
            raise ModelOptFailed(
                f"'modelopt' finds nothing to quantize to '{request.to}': {_TAKES[request.to]}",
                hint="choose another precision; where keep_fp32 is given, fewer patterns",
            )
        gc.collect()
        if low != "fp32":
            pass_on(peaks, result)
            result = lower(
                result,
                low,
                keep=request.keep,
                keep_io_types=request.keep_io_types,
                peaks=peaks,
            )
        return _tidy(result, skeleton)


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Samples for the library, one at a time and never a second one held."""

    def __init__(self, feeds: Feeds) -> None:
        self._feeds = feeds
        self._stream = feeds()

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        feed = next(self._stream, None)
        return None if feed is None else dict(feed)

    def get_first(self) -> dict[str, NDArray[Any]]:
        return dict(next(self._feeds()))

    def rewind(self) -> None:
        self._stream = self._feeds()


def _int8_or_fp8(prepared: ModelProto, request: Quantization, feeds: Feeds) -> ModelProto:
    reader = _Reader(feeds)
    # Weights that two nodes share: the library expects one consumer when it stores them quantized.
    prepared, _ = library.duplicate_shared_constants(prepared)
    large = _weight_bytes(prepared) > _INLINE_BYTES
    folder = Path(tempfile.mkdtemp())
    source = str(folder / "model.onnx")
    ir_version = prepared.ir_version
    wide = _wide_layers(prepared)
    library.save_onnx(prepared, source, save_as_external_data=large)
    del prepared
    analysis = {
        "use_external_data_format": large,
        "intermediate_generated_files": [],
        "calibration_data_reader": reader,
        "calibration_eps": ["cpu"],
    }
    # The library's own exclusions, made here: it takes each name that it finds for a pattern, so
    # that 'MatMul_1' would exclude 'MatMul_10' as well.
    excluded = {
        *request.keep,
        *find_nodes_from_mha_to_exclude(
            source, nodes_to_exclude=[], quantize_mode=request.to, **analysis
        ),
        *(set(find_nodes_from_matmul_to_exclude(source, **analysis)) - wide),
    }
    gc.collect()  # GraphSurgeon's graphs are cycles, each with the model in it
    tool = int8 if request.to == "int8" else fp8
    result: ModelProto = tool.quantize(
        source,
        calibration_method=request.method,
        calibration_data_reader=reader,
        calibration_eps=["cpu"],
        nodes_to_exclude=exactly(sorted(excluded)),
        enable_gemv_detection_for_trt=False,
        use_external_data_format=large,
        high_precision_dtype="fp32",
        log_level="CRITICAL",
        intermediate_generated_files=[],
    )
    result.ir_version = ir_version
    # By what it holds for types, the library would drop Casts of the model that change nothing.
    result.graph.ClearField("value_info")
    # A copy, since a message keeps the memory of all that ever was in it.
    stored = ModelProto()
    stored.CopyFrom(qdq_to_dq(result))
    return stored


def _int4(prepared: ModelProto, request: Quantization, feeds: Feeds) -> ModelProto:
    _untranspose(prepared)
    block_size = request.block_size or _BLOCK_SIZE
    result: ModelProto = int4.quantize(
        prepared,
        calibration_method=_INT4_METHODS[request.method],
        calibration_data_reader=_Reader(_evenly(feeds, _AWQ_SAMPLES)),
        calibration_eps=["cpu"],
        use_external_data_format=_weight_bytes(prepared) > _INLINE_BYTES,
        block_size=block_size,
        nodes_to_exclude=exactly([*request.keep, *_unfit_for_blocks(prepared, block_size)]),
        log_level="CRITICAL",
        # Fusing scales into the node before fails without CuPy, and changes what that node gives.
        awqlite_fuse_nodes=False,
    )
    return result


def _wide_layers(model: ModelProto) -> set[str]:
    """Gemm and MatMul that the library would leave out for the sole reason that the sample it looks
    at is one: a product of a matrix with a vector, as long as nobody runs a batch."""
    if not any(_batched(value) for value in model.graph.input):
        return set()
    dims = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    return {
        node.name
        for node in model.graph.node
        if node.op_type in ("Gemm", "MatMul")
        and len(dims.get(node.input[1], ())) == 2  # noqa: PLR2004 - a matrix
        and min(dims[node.input[1]]) >= _NARROW
    }


def _batched(value: ValueInfoProto) -> bool:
    dims = value.type.tensor_type.shape.dim
    return len(dims) > 0 and not dims[0].HasField("dim_value")


def _unfit_for_blocks(model: ModelProto, block_size: int) -> list[str]:
    """Gemm and MatMul whose weights cannot be cut into blocks. The library would quantize the first
    input and a matrix as bias too; and where the last block is a part of one, TensorRT takes blocks
    of another size than ONNX, without a word."""
    dims = {tensor.name: tensor.dims for tensor in model.graph.initializer}

    def fit(node: NodeProto) -> bool:
        constant = [(at, dims[name]) for at, name in enumerate(node.input) if name in dims]
        matrices = [(at, d) for at, d in constant if len(d) != 1]
        if [at for at, _ in matrices] != [1] or len(matrices[0][1]) != 2:  # noqa: PLR2004
            return False
        inner = matrices[0][1][0]
        return bool(inner <= block_size or inner % block_size == 0)

    products = (node for node in model.graph.node if node.op_type in ("Gemm", "MatMul"))
    return [node.name for node in products if not fit(node)]


def _evenly(feeds: Feeds, most: int) -> Feeds:
    """At most that many samples, spread over all of them; the library lays them side by side."""
    shapes = [{name: each.shape for name, each in feed.items()} for feed in feeds()]
    if other := next((each for each in shapes if each != shapes[0]), None):
        name = next(name for name in other if other[name] != shapes[0][name])
        raise ModelOptFailed(
            f"int4 by AWQ needs samples of one shape, and those of input '{name}' have "
            f"{list(shapes[0][name])} and {list(other[name])}",
            hint="calibrate on samples of one shape, or without data: rounding to nearest needs "
            "none",
        )
    step = -(-len(shapes) // most)

    def some() -> Iterator[Mapping[str, NDArray[Any]]]:
        return (feed for at, feed in enumerate(feeds()) if at % max(step, 1) == 0)

    return some


def _untranspose(model: ModelProto) -> None:
    """Turn Gemm(transB=1) of a constant into transB=0 with the constant transposed: the library
    blocks along axis 0, which is then the inner dimension, as it has to be."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    uses = Counter(_reads(model.graph))
    for node in model.graph.node:
        flag = next((each for each in node.attribute if each.name == "transB" and each.i), None)
        if node.op_type != "Gemm" or flag is None or node.input[1] not in constants:
            continue
        tensor = constants[node.input[1]]
        turned = np.ascontiguousarray(numpy_helper.to_array(tensor).T)
        if uses[tensor.name] > 1:  # others read it as it is
            uses[tensor.name] -= 1
            tensor = model.graph.initializer.add()
            node.input[1] = f"{node.input[1]}/{node.name}/transposed"
        tensor.CopyFrom(numpy_helper.from_array(turned, node.input[1]))
        flag.i = 0


def _readable(model: Path) -> ModelProto:
    """The model without its weights; ModelOptFailed where the library would fail on one, or do
    nothing and not say so."""
    skeleton = read_model(model)
    own = {(function.domain, function.name) for function in skeleton.functions}
    for node in skeleton.graph.node:
        if node.op_type in _QDQ:
            raise ModelOptFailed(
                f"the model is quantized already: node '{node.name}' is a '{node.op_type}'",
                hint="build it as it is: precision: source",
            )
        if not onnx.defs.has(node.op_type, node.domain) and (node.domain, node.op_type) not in own:
            raise ModelOptFailed(
                f"node '{node.name}' is a '{node.op_type}', which ONNX does not define: 'modelopt' "
                "converts no model that has one",
                hint="convert it with tool: onnxruntime, or build it as it is: precision: source",
            )
    return skeleton


def _weight_bytes(model: ModelProto) -> int:
    return sum(tensor.ByteSize() for tensor in model.graph.initializer)


def _reads(graph: GraphProto) -> Iterator[str]:
    """Names that nodes read, those of subgraphs included; a name as often as it is read."""
    for node in graph.node:
        yield from _inputs(node)
    yield from (output.name for output in graph.output)


def _inputs(node: NodeProto) -> Iterator[str]:
    yield from node.input
    for attribute in node.attribute:
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            yield from _reads(graph)


def _tidy(model: ModelProto, skeleton: ModelProto) -> ModelProto:
    """The result in one order: the library walks through sets, so nodes that it adds come as the
    process's hash seed has it. Dimensions of inputs and outputs are those of `skeleton`, since it
    names every one that has no name alike, which makes them equal."""
    graph = model.graph
    for name in ("input", "output"):
        for value, was in zip(getattr(graph, name), getattr(skeleton.graph, name), strict=True):
            value.type.tensor_type.shape.CopyFrom(was.type.tensor_type.shape)
    rank = {node.name: at for at, node in enumerate(skeleton.graph.node)}
    producers = {name: node for node in graph.node for name in node.output if name}
    placed: dict[int, NodeProto] = {}

    def place(node: NodeProto) -> None:
        # All of the model's own nodes before this one are there already, so only what the library
        # added in front of it is reached, a few nodes in a chain.
        if id(node) in placed:
            return
        for name in _inputs(node):
            if name in producers:
                place(producers[name])
        placed[id(node)] = node

    for node in sorted(graph.node, key=lambda node: (rank.get(node.name, len(rank)), node.name)):
        place(node)
    nodes = [*placed.values()]
    graph.ClearField("node")
    graph.node.extend(nodes)
    graph.initializer.sort(key=lambda tensor: tensor.name)
    graph.ClearField("value_info")
    return model
