"""Peak memory and time of quantizing a 500 MB model to INT8, against the library called alone.

Each side is a process of its own, from its start to the written model: `quantize_static` with the
settings that EngineForge sets, and `make_typed`. Samples are the same. For entropy, which
`quantize_static` calibrates with as many bins as there are quantized values, only EngineForge is
measured. Memory is the largest resident set (the mapped weights count), times are in turns.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.benchmarks.measure import in_turns, quiet, spread, table, verdict

TIMES_MODEL = 3.0
TIMES_LIBRARY = 1.05
_SAMPLES = 16
_CHANNELS, _SIZE = 1024, 14
_WIDTH, _TOKENS = 4096, 128
_LAYERS = {"convolutions": 13, "products": 8}
_METHODS = ("max", "percentile", "entropy")


def main() -> None:
    args = _arguments()
    if args.side:
        _SIDES[args.side](args.folder / f"{args.subjects[0]}.onnx", args.methods[0])
        print(_peak())
        return
    rows = []
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for subject in args.subjects:
            path = _model(Path(folder), subject)
            for method in args.methods:
                rows.append(_measured(path, subject, method, args.rounds))
    print()
    head = ["model", "library s", "ours s", "ratio", "<= 1.05", "library", "ours", "<= 3 models"]
    table(head, rows)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("subjects", nargs="*", default=list(_LAYERS), help=" or ".join(_LAYERS))
    parser.add_argument("--methods", nargs="*", default=list(_METHODS), choices=_METHODS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where models are written")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    return parser.parse_args()


def _measured(path: Path, subject: str, method: str, rounds: int) -> list[str]:
    peaks: dict[str, list[int]] = {side: [] for side in _SIDES}
    size = path.stat().st_size

    def run(side: str) -> None:
        here = ["-m", "tests.benchmarks.calibrate", subject, "--methods", method]
        command = [sys.executable, *here, "--side", side, "--folder", str(path.parent)]
        peaks[side].append(int(quiet(command).splitlines()[-1]))

    alone = method != "entropy"
    pairs = in_turns(lambda: run("library") if alone else None, lambda: run("ours"), rounds)
    ratio = statistics.median(pairs.ours) / statistics.median(pairs.bare) if alone else 0.0
    memory = {side: max(found, default=0) / size for side, found in peaks.items()}
    return [
        f"{subject}, {method}, {size / 1e6:.0f} MB",
        spread(pairs.bare, ".1f") if alone else "-",
        spread(pairs.ours, ".1f"),
        f"{ratio:.2f}" if alone else "-",
        verdict(ratio, TIMES_LIBRARY) if alone else "-",
        f"{memory['library']:.2f}" if alone else "-",
        f"{memory['ours']:.2f}",
        verdict(memory["ours"], TIMES_MODEL),
    ]


def _peak() -> int:
    """Of this process; what `getrusage` says is inherited from the one that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def _model(folder: Path, subject: str) -> Path:
    """Layers with ReLUs between them, and 500 MB of weights."""
    random = np.random.default_rng(0)
    convolutions = subject == "convolutions"
    shape = (_CHANNELS, _CHANNELS, 3, 3) if convolutions else (_WIDTH, _WIDTH)
    nodes, tensors, at = [], [], "x"
    for i in range(_LAYERS[subject]):
        weight = random.standard_normal(shape, np.float32) / np.float32(np.prod(shape[1:]) ** 0.5)
        tensors.append(numpy_helper.from_array(weight, f"w{i}"))
        layer = helper.make_node("MatMul", [at, f"w{i}"], [f"y{i}"], name=f"layer{i}")
        if convolutions:
            layer.op_type = "Conv"
            layer.attribute.append(helper.make_attribute("pads", [1] * 4))
        nodes.append(layer)
        nodes.append(helper.make_node("Relu", [f"y{i}"], [f"z{i}"], name=f"relu{i}"))
        at = f"z{i}"
    dims = ["n", *_sample(subject, 0).shape[1:]]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info(at, TensorProto.FLOAT, dims)],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / f"{subject}.onnx"
    onnx.save(model, path)
    return path


def _sample(subject: str, seed: int) -> NDArray[np.float32]:
    random = np.random.default_rng(seed)
    if subject == "convolutions":
        return random.standard_normal((1, _CHANNELS, _SIZE, _SIZE), np.float32)
    return random.standard_normal((1, _TOKENS, _WIDTH), np.float32)


def _library(path: Path, method: str) -> None:
    from onnxruntime.quantization import (
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader:
        def __init__(self) -> None:
            self._samples = iter(range(_SAMPLES))

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            seed = next(self._samples, None)
            return None if seed is None else {"x": _sample(path.stem, seed)}

    operators = ["Conv", "ConvTranspose", "Gemm", "MatMul"]
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        quantize_static(
            path,
            Path(folder) / "typed.onnx",
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=operators,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method={
                "max": CalibrationMethod.MinMax,
                "percentile": CalibrationMethod.Percentile,
            }[method],
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "QuantizeBias": False,
                "OpTypesToExcludeOutputQuantization": operators,
                "CalibPercentile": 99.99,
            },
        )


@dataclass(frozen=True)
class _Sample:
    feed: dict[str, NDArray[np.float32]]


class _Samples:
    def __init__(self, subject: str) -> None:
        self._subject = subject

    def __iter__(self) -> Iterator[_Sample]:
        return (_Sample({"x": _sample(self._subject, seed)}) for seed in range(_SAMPLES))


def _ours(path: Path, method: str) -> None:
    from engineforge.spec.model import ArrayFiles, Calibration, Precision
    from engineforge.stages.precision.typed import make_typed
    from engineforge.stages.sources.onnx import bind

    percentile = "99.99" if method == "percentile" else None
    data = ArrayFiles(path="samples")
    calibration = Calibration(data=data, method=method, percentile=percentile)
    with tempfile.TemporaryDirectory(dir=path.parent) as name:
        folders = [Path(name) / each for each in ("bound", "out", "scratch")]
        for folder in folders:
            folder.mkdir()
        bound, out, scratch = folders
        make_typed(
            bind(path, bound),
            Precision(name="int8", calibration=calibration),
            samples=_Samples(path.stem),
            out=out,
            scratch=scratch,
        )


_SIDES = {"library": _library, "ours": _ours}

if __name__ == "__main__":
    main()
