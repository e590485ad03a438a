"""Why an accuracy check failed, and what would mend it, in lines for the person who reads it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from onnx import TensorProto

from engineforge.checks.accuracy import Measured
from engineforge.checks.figures import text_of, value_of
from engineforge.checks.pair import Pair
from engineforge.checks.sensitivity import hurting, suggest
from engineforge.samples.sample import Sample

_SHOWN = 5


def diagnosis(
    source: Path,
    typed: Path,
    samples: Iterable[Sample],
    *,
    thresholds: Mapping[str, float],
    class_axis: int,
    scratch: Path,
) -> list[str]:
    """Lines about a typed graph that failed: what overflowed first, which layers hurt most, and the
    `keep_fp32` that was measured to mend it.

    `source` is the graph that `typed` was made of: the same node names and opset. `samples` are
    gone through once for each graph that is tried. `scratch` is an empty folder.
    """
    pair = Pair(source, typed, scratch)
    layers = pair.layers()
    if not layers:
        return ["no layer is lower than in the source graph: the difference is not of precision"]
    expected = pair.expected(samples)
    local = pair.local_sqnr(sample for sample, _ in expected)
    lines = []
    if overflow := pair.first_overflow(sample for sample, _ in expected):
        lines.append(_overflow(*overflow))
    worst = [layer for layer in hurting(layers, local) if layer in local][:_SHOWN]
    told = ", ".join(f"'{layer}' {_decibel(local[layer])}" for layer in worst)
    lines.append(f"layers that hurt most, by the SQNR of their tensors: {told}")
    suggestion = suggest(pair, expected, local, thresholds=thresholds, class_axis=class_axis)
    if suggestion is None:
        lines.append(
            f"keeping up to half of the {len(layers)} low layers in FP32 does not mend it: look at "
            "the calibration data, or at another precision"
        )
    else:
        lines.append(f"keep_fp32: {json.dumps(list(suggestion.keep_fp32), ensure_ascii=False)}")
        # Layers that were chosen on some data look better on it than on any other.
        lines.append(f"with that, {_summary(suggestion.measured)}, on the data that chose it")
    return lines


def _overflow(layer: str, low: int) -> str:
    if low == TensorProto.FLOAT16:
        return (
            f"FP16 overflows: the output of '{layer}' is the first beyond 65504, the largest number"
            " that FP16 holds; `tool: modelopt` finds such layers and keeps them in FP32"
        )
    return f"the output of '{layer}' is the first that is infinite or not a number"


def _decibel(sqnr: float) -> str:
    return f"{text_of(sqnr)} dB" if abs(sqnr) == float("inf") else f"{sqnr:.1f} dB"


def _summary(measured: Measured) -> str:
    said = []
    for output, measures in measured["outputs"].items():
        for name in ("relative_error", "top1_agreement", "agreement"):
            if value_of(measures.get(name)) is not None:
                said.append(f"{name} of '{output}' is {text_of(measures[name])}")
    return ", ".join(said)
