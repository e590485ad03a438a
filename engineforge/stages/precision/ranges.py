"""What values activations take on samples, found by ONNX Runtime's calibrators: one sample at a
time, and no weight in memory twice."""

from __future__ import annotations

import contextlib
import io
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto
from onnxruntime.quantization.calibrate import (
    EntropyCalibrater,
    HistogramCollector,
    MinMaxCalibrater,
    PercentileCalibrater,
    TensorData,
)

from engineforge.errors import EngineForgeError
from engineforge.stages.precision.graph import NotConvertible, copied, hollow, refill
from engineforge.stages.precision.quantization import Feeds

_Feed = Mapping[str, NDArray[Any]]
# Up to a power of two, so at least half of them are in use: 2048, which is what the library has for
# percentiles. With its 128 for entropy, as many as quantized values, entropy is the same as max.
_BINS = 4096
_QUANTIZED_BINS = 128
# Of the smallest and largest value of each tensor, which are all that is held of a sample.
_SAMPLES_AT_ONCE = 64
_ERROR = 3
# A scale is a 127th of the range, and below FP32's normal numbers the library takes 1 instead.
_SMALLEST_RANGE = 127 * float(np.finfo(np.float32).tiny)


def find(
    model: ModelProto,
    path: Path,
    tensors: Sequence[str],
    *,
    method: str,
    percentile: float | None,
    feeds: Feeds,
    scratch: Path,
) -> dict[str, TensorData]:
    """The range of each tensor by a method (max, entropy, percentile), as the library has them.

    `model` is what is in the prepared file `path`. The order of the samples does not matter, and no
    more is held for more of them. NotConvertible where ONNX Runtime cannot run the model, or values
    are not finite.
    """
    with (
        tempfile.TemporaryDirectory(dir=scratch) as temporary,
        contextlib.redirect_stdout(io.StringIO()),
    ):
        running = _Running(model, path.parent, Path(temporary))
        if method != "max":
            return running.histograms(tensors, feeds, method=method, percentile=percentile)
        limits = running.limits(tensors, feeds)
        for name in tensors:
            low, high = (float(np.asarray(each).max()) for each in limits[name].range_value)
            _sound(max(abs(low), abs(high)), name)
        return limits


class _Running:
    """A model that calibrators run, without its weights for them."""

    def __init__(self, model: ModelProto, folder: Path, temporary: Path) -> None:
        self._folder = folder
        self._path = temporary / "model.onnx"
        self._augmented = str(temporary / "augmented.onnx")
        copy = copied(model)
        self._weights = hollow(copy)
        self._path.write_bytes(copy.SerializeToString())

    def limits(self, tensors: Sequence[str], feeds: Feeds) -> dict[str, TensorData]:
        calibrator = MinMaxCalibrater(self._path, None, self._augmented)
        stream = self._start(calibrator, tensors, feeds)
        while part := list(islice(stream, 1)):
            self._collect(calibrator, chain(part, islice(stream, _SAMPLES_AT_ONCE - 1)))
        return dict(calibrator.compute_data().items())

    def histograms(
        self,
        tensors: Sequence[str],
        feeds: Feeds,
        *,
        method: str,
        percentile: float | None,
    ) -> dict[str, TensorData]:
        if method == "entropy":
            calibrator = EntropyCalibrater(
                self._path,
                None,
                self._augmented,
                symmetric=True,
                num_bins=_BINS,
                num_quantized_bins=_QUANTIZED_BINS,
            )
        else:
            calibrator = PercentileCalibrater(
                self._path,
                None,
                self._augmented,
                symmetric=True,
                num_bins=_BINS,
                percentile=percentile,
            )
        stream = self._start(calibrator, tensors, feeds)
        calibrator.collector = histograms = _Histograms(method, percentile)
        for feed in stream:
            self._collect(calibrator, iter([feed]))
        nothing = TensorData(lowest=np.float32(0), highest=np.float32(0))
        found = dict.fromkeys(tensors, nothing)
        if histograms.settle():
            found.update(calibrator.compute_data().items())
        return found

    def _start(
        self,
        calibrator: Any,  # noqa: ANN401 - the library has no types
        tensors: Sequence[str],
        feeds: Feeds,
    ) -> Iterator[_Feed]:
        graph = calibrator.model.graph
        infos = {v.name: v for v in (*graph.value_info, *graph.output, *graph.input)}
        # By itself the library would measure the outputs of layers too, which nobody quantizes.
        calibrator.select_tensors_to_calibrate = lambda _: (dict.fromkeys(tensors), infos)
        calibrator.augment_graph()
        refill(calibrator.model, self._weights)
        calibrator.infer_session = _session(calibrator.model, self._folder)
        calibrator.model.graph.ClearField("initializer")
        stream = iter(feeds())
        first = next(stream, None)
        if first is None:
            raise NotConvertible(
                "the calibration data has no samples", hint="name data that has some"
            )
        return chain([first], stream)

    @staticmethod
    def _collect(calibrator: Any, feeds: Iterator[_Feed]) -> None:  # noqa: ANN401
        reader = _Reader(feeds)
        try:
            calibrator.collect_data(reader)
        except EngineForgeError:
            raise
        except Exception as error:  # ONNX Runtime's have no parent but Exception
            raise NotConvertible(
                f"ONNX Runtime cannot run the model on a sample: {_said(error)}"
            ) from error


class _Histograms(HistogramCollector):  # type: ignore[misc]
    """The library's, over ranges that do not depend on which sample comes first. By itself it goes
    by the range of the first one: later values below it are lost, and larger ones make ever more
    bins."""

    def __init__(self, method: str, percentile: float | None) -> None:
        super().__init__(
            method=method,
            symmetric=True,
            num_bins=_BINS,
            num_quantized_bins=_QUANTIZED_BINS,
            percentile=percentile,
            scenario="same",
        )
        self._held: dict[str, _Histogram] = {}

    def collect(self, name_to_arr: Mapping[str, Sequence[NDArray[Any]]]) -> None:
        for name, arrays in name_to_arr.items():
            # Percentiles are those of magnitudes.
            held = self._held.setdefault(name, _Histogram(two_sided=self.method == "entropy"))
            for array in arrays:
                held.add(array, name)

    def settle(self) -> bool:
        """Hand over to the library what is not always zero; whether there is any."""
        for name, held in self._held.items():
            if _sound(held.largest, name):
                self.histogram_dict[name] = held.in_the_librarys_form()
        return bool(self.histogram_dict)


class _Histogram:
    """Of values, or of their magnitudes, in bins up to a power of two. It doubles when a value is
    beyond, and then two bins become one: exactly the counts that there had been with that range
    from the beginning."""

    def __init__(self, *, two_sided: bool) -> None:
        self._two_sided = two_sided
        self._counts = np.zeros(_BINS, np.int64)
        self._reach = 0.0
        self._low, self._high = math.inf, -math.inf
        self._zeros = 0

    @property
    def largest(self) -> float:
        return max(abs(self._low), abs(self._high))

    def add(self, values: NDArray[Any], name: str) -> None:
        if not values.size:
            return
        low, high = float(values.min()), float(values.max())
        largest = max(abs(low), abs(high))
        if not math.isfinite(low + high):
            _sound(math.inf, name)
        self._low, self._high = min(self._low, low), max(self._high, high)
        if largest == 0:
            self._zeros += values.size
            return
        self._grow(math.ldexp(1, math.frexp(largest)[1]))
        bounds = (-self._reach if self._two_sided else 0.0, self._reach)
        taken = values if self._two_sided else np.abs(values)
        self._counts += np.histogram(taken, _BINS, bounds)[0]

    def _grow(self, reach: float) -> None:
        while 0 < self._reach < reach:
            at = _BINS // 4 if self._two_sided else 0
            pairs = self._counts.reshape(-1, 2).sum(1)
            self._counts[:] = 0
            self._counts[at : at + len(pairs)] = pairs
            self._reach *= 2
        self._reach = max(self._reach, reach)

    def in_the_librarys_form(self) -> tuple[Any, ...]:
        """Counts and edges of the bins up to the largest value, and the bounds of values."""
        middle = _BINS // 2 if self._two_sided else 0
        self._counts[middle] += self._zeros
        self._zeros = 0
        width = self._reach / (_BINS - middle)
        used = int(self.largest / width) + 1
        first = middle - used if self._two_sided else 0
        edges = (np.arange(first, middle + used + 1) - middle) * width
        bounds = (np.float32(self._low), np.float32(self._high))
        made = (self._counts[first : middle + used], edges.astype(np.float32), *bounds)
        return (*made, np.float32(self.largest)) if self._two_sided else made


class _Reader:
    def __init__(self, feeds: Iterator[_Feed]) -> None:
        self._feeds = feeds

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        feed = next(self._feeds, None)
        return None if feed is None else dict(feed)


def _session(model: ModelProto, folder: Path) -> Any:  # noqa: ANN401 - the library has no types
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERROR
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    # Samples may differ in shape: an arena would keep the largest of everything.
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(folder)
    )
    try:
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise NotConvertible(
            f"ONNX Runtime {onnxruntime.__version__} cannot load the model: {_said(error)}"
        ) from error


def _sound(largest: float, tensor: str) -> float:
    """The largest magnitude of a tensor, if a scale can be made of it."""
    if not math.isfinite(largest):
        raise NotConvertible(
            f"tensor '{tensor}' has values that are not finite on the calibration data",
            hint="look at the samples, and at the model in fp32",
        )
    if 0 < largest < _SMALLEST_RANGE:
        message = f"tensor '{tensor}' reaches only {largest:g} on the calibration data"
        raise NotConvertible(
            f"{message}: no scale is so small",
            hint="look at how the samples are scaled",
        )
    return largest


def _said(error: Exception) -> str:
    return " ".join(str(error).split())
