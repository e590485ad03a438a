"""Networks written in Python: a function of the user's fills TensorRT's network definition layer by
layer, with weights from a safetensors or NumPy file, and what it leaves is checked.

TensorRT answers a bad argument with None and a line in its log, and finds out that shapes do not
fit when somebody asks for them; here all of that fails the build, with the line of the function.
"""

from __future__ import annotations

import difflib
import inspect
import json
import mmap
import re
import traceback
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engineforge.backends import BuildError
from engineforge.backends.network_settings import inputs_of
from engineforge.backends.words import Words

Array = NDArray[Any]

# The types of the safetensors format (github.com/huggingface/safetensors) that TensorRT has, in the
# words of NumPy and ml_dtypes.
_SAFETENSORS = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "I32": "int32",
    "I64": "int64",
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
}
_MAX_HEADER = 100_000_000  # the format's own limit
# Types that TensorRT has and NumPy does not, by their names in ml_dtypes and in TensorRT's API.
_EXTENDED = {"bfloat16": "bfloat16", "float8_e4m3fn": "fp8"}
_MOST_NAMES = 12


class MissingWeight(KeyError):
    """A name that the weights do not have; and those there are."""


class Weights(Mapping[str, Array]):
    """Arrays by name; a missing one is told with the names that are near."""

    def __init__(self, arrays: Mapping[str, Array], called: str) -> None:
        self._arrays, self._called = arrays, called

    def __getitem__(self, name: str) -> Array:
        try:
            return self._arrays[name]
        except KeyError:
            near = difflib.get_close_matches(str(name), self._arrays, n=3)
            listed = near or sorted(self._arrays)[:_MOST_NAMES]
            more = ", …" if not near and len(self._arrays) > _MOST_NAMES else ""
            raise MissingWeight(
                f"'{self._called}' has no array '{name}'",
                f"{'did you mean' if near else 'there is'}: {', '.join(listed)}{more}",
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


def read_weights(path: Path) -> Weights:
    """The arrays of a .safetensors or .npz file; BuildError if it is neither, or holds pickles.
    Those of a safetensors file are mapped, and read-only."""
    match path.suffix:
        case ".safetensors":
            read = _safetensors
        case ".npz":
            read = _npz
        case _:
            raise BuildError(
                f"weights '{path.name}': expected a .safetensors or .npz file",
                hint="numpy.savez('weights.npz', **arrays) writes one",
            )
    try:
        return Weights(read(path), path.name)
    except OSError as error:
        raise BuildError(f"weights '{path.name}' cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        said = " ".join(str(error).split())
        hint = None
        if "allow_pickle" in said:
            said = "it holds Python objects, which are code when they are loaded"
            hint = "write plain arrays: numpy.savez('weights.npz', **arrays)"
        raise BuildError(f"weights '{path.name}' are not readable: {said}", hint=hint) from error


def _npz(path: Path) -> dict[str, Array]:
    if not zipfile.is_zipfile(path):
        raise ValueError("it is no NumPy archive")
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _safetensors(path: Path) -> dict[str, Array]:
    """Eight bytes with the header's length, a header in JSON, and the data, little-endian."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        size = path.stat().st_size
        if not 0 < length <= min(_MAX_HEADER, size - 8):
            raise ValueError("it is no safetensors file, or a truncated one")
        header = json.loads(file.read(length))
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    header.pop("__metadata__", None)
    start = 8 + length
    return {name: _tensor(name, told, data, start) for name, told in header.items()}


def _tensor(name: str, told: Mapping[str, Any], data: mmap.mmap, start: int) -> Array:
    kind, shape, (first, last) = told["dtype"], told["shape"], told["data_offsets"]
    if kind not in _SAFETENSORS:
        raise ValueError(f"'{name}' is {kind}, which TensorRT does not have")
    dtype = _dtype(_SAFETENSORS[kind])
    count = int(np.prod(shape, dtype=np.int64))
    if not 0 <= first <= last <= len(data) - start or last - first != count * dtype.itemsize:
        raise ValueError(f"'{name}' is {kind} {shape}, at the bytes {first} to {last}")
    found = np.frombuffer(data, dtype, count, start + first).reshape(shape)
    # The format does not promise that data begins where a number can be read from.
    return found if found.flags.aligned else found.copy()


def _dtype(name: str) -> np.dtype[Any]:
    if name not in _EXTENDED:
        return np.dtype(name)
    import ml_dtypes

    found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
    return found


def define(
    trt: Any,  # noqa: ANN401 - TensorRT has no types
    network: Any,  # noqa: ANN401
    function: Callable[..., object],
    *,
    weights: Mapping[str, Array],
    inputs: Mapping[str, tuple[int | None, ...]],
    arguments: Mapping[str, object],
    words: Words,
    called: str,
) -> list[object]:
    """Fill `network` by `function(network, trt, weights, **arguments)`; BuildError, with its line,
    for whatever it raises, and for what TensorRT refused.

    `inputs` are the spec's, None for an axis that varies; `called` is what errors call the
    function. Returns what TensorRT points into: to be kept until the engine is built.
    """
    held: list[object] = [weights]
    try:
        function(_Network(trt, network, held), trt, weights, **arguments)
    except BuildError:
        raise
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        said, hint = _told(error)
        where = _line(error, function)
        raise BuildError(f"{called} failed{where}: {said}{words.said()}", hint=hint) from error
    _check_layers(network, called, words)
    if network.num_outputs == 0:
        raise BuildError(f"{called} marked no outputs", hint="call network.mark_output(tensor)")
    _check_inputs(network, inputs, called)
    words.no_errors(f"while {called} filled the network")
    return held


class _Refused(Exception):
    """What TensorRT made nothing of, or cannot be given; and a hint, or None."""


class _Network:
    """An INetworkDefinition as the function sees it: what TensorRT makes nothing of is raised where
    it is asked for, and arrays stay alive: those that it is given, and those that are set on its
    layers, `layer.bias = …`, which the binding lets go of with the Python object of the layer."""

    def __init__(self, trt: Any, network: Any, held: list[object]) -> None:  # noqa: ANN401
        self.__dict__.update(_trt=trt, _network=network, _held=held)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        found = getattr(self._network, name)
        return partial(self._call, name, found) if callable(found) else found

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._network, name, value)

    def __getitem__(self, index: int) -> Any:  # noqa: ANN401
        return self._held_with(self._network[index])

    def __len__(self) -> int:
        return len(self._network)

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(len(self)))

    def _call(self, name: str, method: Callable[..., Any], *given: Any, **named: Any) -> Any:  # noqa: ANN401
        made = method(
            *(self._kept(each, name) for each in given),
            **{key: self._kept(each, name) for key, each in named.items()},
        )
        if made is None and name.startswith("add_"):
            raise _Refused(f"TensorRT made nothing of network.{name}(…)", None)
        return self._held_with(made)

    def _held_with(self, layer: Any) -> Any:  # noqa: ANN401 - or whatever else TensorRT gives
        self._held.append(layer)
        return layer

    def _kept(self, value: Any, name: str) -> Any:  # noqa: ANN401
        """What is passed on, and held: TensorRT points into the memory of arrays."""
        if isinstance(value, self._trt.Weights):
            self._held.append(value)
        if not isinstance(value, np.ndarray):
            return value
        array = np.ascontiguousarray(value).reshape(value.shape)
        self._held.append(array)
        if (own := _EXTENDED.get(array.dtype.name)) is not None:
            dtype = getattr(self._trt, own)
            return self._trt.Weights(dtype, array.ctypes.data, array.size)
        if array.dtype in (np.float64, np.complex64, np.complex128) or array.dtype.kind in "OSU":
            raise _Refused(
                f"network.{name}(…) is given an array of {array.dtype}, which TensorRT lacks",
                "convert it: array.astype(numpy.float32)",
            )
        return array


def _told(error: BaseException) -> tuple[str, str | None]:
    """What an error of the function says, and what to do about it."""
    if isinstance(error, MissingWeight | _Refused):
        said, hint = error.args
        return said, hint
    text = str(error)
    if isinstance(error, TypeError) and "incompatible function arguments" in text:
        # The binding goes on with all that it was given, whole arrays included.
        takes = re.search(r"^\s*1\. \(self: [\w.]+(?:, )?(.*)\) -> ", text, re.MULTILINE)
        hint = f"it takes ({re.sub(r'(?:[a-z_]+[.])+', '', takes[1])})" if takes else None
        return "TypeError: " + text.partition(". The following")[0], hint
    return f"{type(error).__name__}: {' '.join(text.split())}".rstrip(": "), None


def _line(error: BaseException, function: Callable[..., object]) -> str:
    """Where in the function, or in what is beside it."""
    try:
        folder = Path(inspect.getfile(inspect.unwrap(function))).parent
    except TypeError:  # an object that can be called has no file
        return ""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if (path := Path(frame.filename)).is_relative_to(folder):
            return f" at {path.relative_to(folder)}:{frame.lineno}"
    return ""


def _check_layers(network: Any, called: str, words: Words) -> None:  # noqa: ANN401
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        for at in range(layer.num_outputs):
            tensor = layer.get_output(at)
            try:
                fits = tensor is not None and tensor.shape is not None
            except (RuntimeError, ValueError):  # what the binding makes of shapes that do not fit
                fits = False
            if not fits:
                raise BuildError(
                    f"{called} made a layer that does not fit what it reads: '{layer.name}' "
                    f"(layer {index}, {layer.type.name}){words.said()}",
                    hint="give layers names, layer.name = '…', to find this one",
                )


def _check_inputs(
    network: Any,  # noqa: ANN401
    wanted: Mapping[str, tuple[int | None, ...]],
    called: str,
) -> None:
    found = {tensor.name: tuple(tensor.shape) for tensor in inputs_of(network)}
    if found.keys() != wanted.keys():
        raise BuildError(
            f"{called} has the inputs {_listed(found)}, and the spec {_listed(wanted)}",
            hint="name those of network.add_input(…) in the spec's 'inputs'",
        )
    for name, dims in wanted.items():
        shape = found[name]
        fits = len(shape) == len(dims) and all(
            size in (-1, dim) for size, dim in zip(shape, dims, strict=True)
        )
        if not fits:
            asked = tuple("varies" if dim is None else dim for dim in dims)
            raise BuildError(
                f"{called} gives the input '{name}' the shape {shape}, and the spec says "
                f"({', '.join(map(str, asked))})",
                hint="an axis that varies is -1 in network.add_input(…)",
            )


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"
