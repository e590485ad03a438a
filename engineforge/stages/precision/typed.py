"""The `typed` stage: prune, then cast or quantize, then see that nothing else has changed."""

from __future__ import annotations

import importlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from onnx import ModelProto, TensorProto, ValueInfoProto, shape_inference

from engineforge.errors import EngineForgeError
from engineforge.spec.model import AS_IT_IS, Precision
from engineforge.stages.precision import calibration, patterns, sparsity, tools
from engineforge.stages.precision.graph import (
    NotConvertible,
    copied,
    hollow,
    named,
    nodes,
    opset_of,
    skeleton,
    write,
)
from engineforge.stages.precision.prepare import prepare
from engineforge.stages.precision.quantization import Feeds, Quantization
from engineforge.stages.sources.onnx import ModelError, inspect, read_model, type_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

CALIBRATION = "calibration.json"
SPARSITY = "sparsity.json"
# Heavy, and each of them an extra of its own.
_MODULES = {name: f"engineforge.stages.precision.{name}" for name in tools.TOOLS}
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# Between what is dequantized and the layer that it is for.
_TRANSPARENT = ("Cast", "Reshape", "Transpose")
# Tools drop those that change nothing.
_COMPUTES_NOTHING = ("Cast", "Identity")
# The first opset in which DequantizeLinear has an axis (13), scales other than FP32 (19), blocks
# (21). Convolutions and pooling have BF16 from 22 on, and would be left in FP32 below.
_OPSETS = {"bf16": 22, "int8": 13, "fp8": 19, "int4": 21}
_OPSETS_AROUND = {"fp32": 0, "fp16": 19, "bf16": 22}


class _Sample(Protocol):
    @property
    def feed(self) -> Mapping[str, NDArray[Any]]: ...


def make_typed(
    model: Path,
    precision: Precision,
    *,
    samples: Iterable[_Sample] | None,
    out: Path,
    scratch: Path,
) -> dict[str, Any]:
    """Convert a model, a file as `bind` makes it, into the folder `out`.

    Writes `model.onnx`, beside `model.onnx.data` if it is large; `calibration.json` if samples
    found ranges; `sparsity.json` if it was pruned. `samples` are iterated over more than once, one
    run of the model each. `scratch` takes a copy of the weights. Returns what was done, as JSON
    holds it. EngineForgeError where the model cannot be converted, or the tool is missing.
    """
    tool = None
    if precision.name not in AS_IT_IS:
        tool = precision.tool or tools.default_tool(precision.name)
    if tool is not None and (why := tools.missing(tool)) is not None:
        raise NotConvertible(why)
    folder = scratch / "prepared"
    folder.mkdir()
    source = named(model)
    prepared = prepare(model, opset=_opset(precision), out=folder)
    plain = skeleton(prepared)
    keep = _kept(precision.keep_fp32, source, plain)
    pruned = None if precision.sparsity is None else sparsity.prune(prepared, keep)
    feeds = None if samples is None else _Feeds(samples)
    if tool is None:
        made = skeleton(prepared)
    else:
        made = _converted(tool, prepared, precision, keep=keep, feeds=feeds, scratch=scratch)
    typed = write(made, out, prepared)
    del made
    scales = _verified(typed, plain, precision)
    versions = {} if tool is None else tools.installed(tool)
    if pruned is not None:
        _write_json(out / SPARSITY, {"pattern": sparsity.PATTERN, "layers": pruned})
    if precision.quantizes and precision.calibration is not None and feeds is not None:
        about = {
            "tool": tool,
            "versions": versions,
            "method": precision.calibration.method,
            "percentile": precision.calibration.percentile,
            "samples": feeds.count,
            "seed": precision.calibration.seed,
        }
        _write_json(out / CALIBRATION, {**about, **scales})
    return {
        "tool": tool,
        "versions": versions,
        "opset": {"before": opset_of(source), "after": opset_of(read_model(typed))},
        **_layers(read_model(typed), {node.name for node in nodes(plain)}),
        "kept_fp32": [node.name for node in nodes(plain) if node.name in keep],
        "pruned": None if pruned is None else dict(Counter(each["state"] for each in pruned)),
    }


class _Feeds:
    """The inputs of samples, as often as they are asked for; `count` is how many there were when
    they were last read to the end."""

    def __init__(self, samples: Iterable[_Sample]) -> None:
        self._samples = samples
        self.count = 0

    def __call__(self) -> Iterator[Mapping[str, NDArray[Any]]]:
        count = 0
        for count, sample in enumerate(self._samples, 1):  # noqa: B007 - it is read below
            yield sample.feed
        self.count = count


def _opset(precision: Precision) -> int:
    """The lowest that can say what the precision is; 0 for any."""
    around = _OPSETS_AROUND[precision.high_precision] if precision.quantizes else 0
    return max(_OPSETS.get(precision.name, 0), around)


def _kept(wanted: Collection[str], source: ModelProto, plain: ModelProto) -> frozenset[str]:
    """The names of the nodes that patterns mean, of those that are left after preparing."""
    found = patterns.matches(source, wanted)
    for pattern, names in found.items():
        if not names:
            raise NotConvertible(
                f"the model has no node that '{pattern}' means",
                hint=patterns.nearest(source, pattern),
            )
    # Raising the opset may make new nodes, of types that a pattern means.
    every = [*found.values(), *patterns.matches(plain, wanted).values()]
    left = {node.name for node in nodes(plain)}
    return frozenset(name for names in every for name in names if name in left)


def _converted(
    name: str,
    prepared: Path,
    precision: Precision,
    *,
    keep: frozenset[str],
    feeds: Feeds | None,
    scratch: Path,
) -> ModelProto:
    try:
        tool = importlib.import_module(_MODULES[name])
        if not precision.quantizes:
            cast: ModelProto = tool.cast(
                prepared,
                to=precision.name,
                keep=sorted(keep),
                keep_io_types=precision.keep_io_types,
                feeds=feeds,
                scratch=scratch,
            )
            return cast
        request = _request(precision, keep)
        quantized: ModelProto = tool.quantize(
            prepared, request=request, feeds=feeds, scratch=scratch
        )
        return quantized
    except (EngineForgeError, MemoryError, OSError):
        raise
    except Exception as error:  # libraries raise what they like
        said = " ".join(str(error).split()) or type(error).__name__
        other = name == "onnxruntime" and precision.name in tools.TOOLS["modelopt"].precisions
        raise NotConvertible(
            f"'{name}' failed: {said}", hint="tool: modelopt" if other else None
        ) from error


def _request(precision: Precision, keep: frozenset[str]) -> Quantization:
    given = precision.calibration
    return Quantization(
        to=precision.name,
        keep=tuple(sorted(keep)),
        # Only int4 can do without samples, by rounding to the nearest.
        method="rtn" if given is None else given.method,
        percentile=None if given is None or given.percentile is None else float(given.percentile),
        block_size=precision.block_size,
        high_precision=precision.high_precision,
        keep_io_types=precision.keep_io_types,
    )


def _verified(path: Path, plain: ModelProto, precision: Precision) -> dict[str, Any]:
    """See that the file is a valid model with the inputs, outputs and nodes that there were; the
    scales of its Q/DQ nodes."""
    typed = read_model(path)
    try:
        inspect(path)
        _infer_strictly(typed, plain)
    except (ModelError, shape_inference.InferenceError) as error:
        said = " ".join(str(error.args[0]).split())
        raise NotConvertible(f"the converted model is not valid: {said}") from error
    for kind in ("input", "output"):
        before, after = (
            [_interface(value, precision) for value in getattr(each.graph, kind)]
            for each in (plain, typed)
        )
        if before != after:
            raise NotConvertible(f"converting changed the model's {kind}s: {before} to {after}")
    names = Counter(node.name for node in nodes(typed))
    lost = [
        node.name
        for node in nodes(plain)
        if node.name not in names and node.op_type not in _COMPUTES_NOTHING
    ]
    twice = [name for name, count in names.items() if count > 1]
    if lost or twice:
        raise NotConvertible(
            f"converting {'lost' if lost else 'doubled'} the node '{(lost or twice)[0]}'"
        )
    scales = calibration.scales(typed, path)
    if precision.quantizes and not scales["weights"]:
        raise NotConvertible(
            "there is nothing to quantize",
            hint="choose another precision; where keep_fp32 is given, fewer patterns",
        )
    return scales


def _infer_strictly(typed: ModelProto, plain: ModelProto) -> None:
    """ONNX's inference over the converted graph, if it has no objection to the one before."""
    for model, binding in ((plain, False), (typed, True)):
        bare = copied(model)
        hollow(bare)
        try:
            shape_inference.infer_shapes(bare, check_type=True, strict_mode=True)
        except shape_inference.InferenceError:
            if binding:
                raise
            return


def _interface(value: ValueInfoProto, precision: Precision) -> tuple[object, ...]:
    tensor = value.type.tensor_type
    dims = [
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in tensor.shape.dim
    ]
    floats = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
    if not precision.keep_io_types and tensor.elem_type in floats:
        return value.name, "float", dims
    return value.name, type_name(tensor.elem_type), dims


def _layers(model: ModelProto, own: set[str]) -> dict[str, Any]:
    """Layers by type, those of them that are quantized, and the names of the others."""
    producers = {name: node for node in nodes(model) for name in node.output}

    def dequantized(name: str) -> bool:
        node = producers.get(name)
        while node is not None and node.op_type in _TRANSPARENT:
            node = producers.get(node.input[0])
        return node is not None and node.op_type == "DequantizeLinear"

    layers = [node for node in nodes(model) if node.op_type in _LAYERS and node.name in own]
    quantized = {node.name for node in layers if any(map(dequantized, node.input[:2]))}
    return {
        "layers": dict(sorted(Counter(node.op_type for node in layers).items())),
        "quantized": dict(
            sorted(Counter(node.op_type for node in layers if node.name in quantized).items())
        ),
        "not_quantized": [node.name for node in layers if node.name not in quantized]
        if quantized
        else [],
    }


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps({"format": tools.FORMAT, **content}, indent=1, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
