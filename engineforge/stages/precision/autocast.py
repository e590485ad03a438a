"""ModelOpt's AutoCast: a graph's nodes into FP16 or BF16, but for those that would overflow."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from copy import deepcopy
from pathlib import Path

import numpy as np
import onnxruntime
from modelopt.onnx import utils as library
from modelopt.onnx.autocast.convert import DEFAULT_DATA_MAX, DEFAULT_INIT_MAX
from modelopt.onnx.autocast.nodeclassifier import NodeClassifier
from modelopt.onnx.autocast.precisionconverter import PrecisionConverter
from modelopt.onnx.autocast.referencerunner import TensorStats
from onnx import ModelProto, TensorProto, helper

from engineforge.stages.precision.quantization import Feeds
from engineforge.stages.sources.onnx import read_model, references
from engineforge.stages.sources.skeleton import IN_FILE


def lower(
    model: ModelProto,
    low: str,
    *,
    keep: Collection[str],
    keep_io_types: bool,
    peaks: Mapping[str, TensorStats],
) -> ModelProto:
    """AutoCast without its cleaning of the graph and without its run on random numbers."""
    opset = library.get_opset_version(model)
    interface = deepcopy({"input": [*model.graph.input], "output": [*model.graph.output]})
    model = library.infer_types(model, strict_mode=True)
    converter = PrecisionConverter(
        model,
        {},
        {},
        {},
        keep_io_types=keep_io_types,
        low_precision_type=low,
        min_opset=opset,
        original_network_io_metadata=interface if keep_io_types else None,
        sanitize_model=False,
    )
    del model  # the converter has a copy
    fp16 = low == "fp16"
    classifier = NodeClassifier(
        converter.model,
        converter.node_to_init_map,
        converter.initializer_map,
        nodes_to_exclude=exactly(keep),
        # TensorRT-RTX 1.7 compiles none in BF16: "could not infer output types: deconv".
        op_types_to_exclude=[] if fp16 else ["ConvTranspose"],
        # BF16 reaches as far as FP32.
        data_max=DEFAULT_DATA_MAX if fp16 else None,
        init_max=DEFAULT_INIT_MAX if fp16 else None,
    )
    lowered, kept = classifier.run(peaks)
    result: ModelProto = converter.convert(kept, lowered)
    return result


def peaks_of(model: Path, feeds: Feeds) -> dict[str, TensorStats]:
    """The largest magnitude of every float32 tensor of the graph over all samples.

    The library would hold every tensor of every sample; here ONNX Runtime reduces each to a number.
    """
    skeleton = read_model(model)
    for reference in references(skeleton, model):
        if reference.location == IN_FILE:  # the weights stay where they are: in the model's file
            entries = {"location": model.name, "offset": reference.offset}
            del reference.tensor.external_data[:]
            for key, value in (entries | {"length": reference.length}).items():
                reference.tensor.external_data.add(key=key, value=str(value))
    measured = library.infer_types(skeleton, strict_mode=True)
    graph = measured.graph
    values = (*graph.input, *graph.value_info, *graph.output)
    floats = {v.name for v in values if v.type.tensor_type.elem_type == TensorProto.FLOAT}
    floats -= {tensor.name for tensor in graph.initializer}
    graph.ClearField("value_info")
    graph.ClearField("output")
    for at, name in enumerate(sorted(floats)):
        magnitude, peak = f"engineforge.magnitude.{at}", f"engineforge.peak.{at}"
        graph.node.append(helper.make_node("Abs", [name], [magnitude], name=magnitude))
        graph.node.append(helper.make_node("ReduceMax", [magnitude], [peak], name=peak, keepdims=0))
        graph.output.append(helper.make_tensor_value_info(peak, TensorProto.FLOAT, []))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(model.parent.resolve())
    )
    session = onnxruntime.InferenceSession(
        measured.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    top = np.zeros(len(floats), np.float32)
    for feed in feeds():
        np.fmax(top, np.asarray(session.run(None, dict(feed)), np.float32), out=top)
    return {
        name: TensorStats(absmax=float(peak), min_val=-float(peak), max_val=float(peak), shape=(1,))
        for name, peak in zip(sorted(floats), top, strict=True)
    }


def pass_on(peaks: dict[str, TensorStats], quantized: ModelProto) -> None:
    """What goes through a Q/DQ pair is as large behind it as before."""
    for node in quantized.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.input[0] in peaks:
            peaks[node.output[0]] = peaks[node.input[0]]


def exactly(names: Collection[str]) -> list[str]:
    """Patterns for `re.match` that fit these names and no others."""
    return [re.escape(name) + r"\Z" for name in names]
