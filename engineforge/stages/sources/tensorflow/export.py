"""TensorFlow models to ONNX: SavedModel folders, and files of Keras."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engineforge.samples import near
from engineforge.spec.sources import InputAxes, TensorflowSource
from engineforge.stages.sources import SourceFailed, beginning, warn_of_code
from engineforge.stages.sources.exporters import TENSORFLOW_OPSET
from engineforge.stages.sources.naming import settle

_DEFAULT_SIGNATURE = "serving_default"
_TRUST = "if it comes from people you trust: trust: true"
# Those of TensorFlow's own `saved_model_cli scan`, and what calls Python.
_TOUCHES_FILES = ("MatchingFiles", "PrintV2", "PyFunc", "PyFuncStateless", "ReadFile", "WriteFile")
_ZIP, _HDF5 = (".keras",), (".h5", ".hdf5")
_HDF5_START = b"\x89HDF\r\n\x1a\n"
# Protobuf holds 2 GiB; some is left for all that is not weights.
_MOST_BYTES = (1 << 31) - (1 << 24)
_IMAGE_AXES = 3
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # Keras writes some of its errors bold


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    """A loaded model: `call` takes tensors by input name, and gives those of `outputs`. Sizes of
    `inputs` are None where they vary, or altogether where even their number does."""

    called: str
    inputs: Mapping[str, tuple[tuple[int | None, ...] | None, str]]
    outputs: tuple[str, ...]
    call: Callable[[Mapping[str, Any]], Sequence[Any]]
    weights: Sequence[Any]


def export(
    source: TensorflowSource,
    *,
    folder: Path,
    files: Sequence[Path],
    inputs: Mapping[str, InputAxes],
    out: Path,
) -> None:
    """Write `out/model.onnx`; SourceFailed where it cannot be made.

    An input that has no namesake in the model is the only one of both. Element types are the
    model's own, and so is the order of axes: NHWC for images.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's and Keras' own deprecations
        if source.saved_model is not None:
            model = _saved_model(folder / source.saved_model, source)
        else:
            model = _keras_model(folder / str(source.keras), source)
        made = _convert(model, source, inputs)
    (out / "model.onnx").write_bytes(made)


# SavedModel


def _saved_model(path: Path, source: TensorflowSource) -> _Model:
    import tensorflow as tf

    called = str(source.saved_model)
    if not (path / "saved_model.pb").is_file():
        if (path / "saved_model.pbtxt").is_file():
            message = f"'{called}' is a SavedModel in text form, which is not read"
            raise SourceFailed(message, hint="save it again: tf.saved_model.save, model.export")
        found = sorted(each.parent.name for each in path.glob("*/saved_model.pb"))
        hint = f"did you mean '{Path(called) / found[-1]}'?" if found else "model.export makes one"
        raise SourceFailed(f"'{called}' is no SavedModel: no 'saved_model.pb' in it", hint=hint)
    if source.trust:
        warn_of_code(called)
    else:
        _check_operators(path / "saved_model.pb", called)
    try:
        loaded = tf.saved_model.load(str(path))
    except Exception as error:  # what damaged checkpoints raise has no end
        raise SourceFailed(f"'{called}' cannot be loaded: {_said(error)}") from error
    signatures = sorted(loaded.signatures)
    name = source.signature or (signatures[0] if len(signatures) == 1 else _DEFAULT_SIGNATURE)
    if name not in signatures:
        if not signatures:
            hint = "tf.saved_model.save(model, folder, signatures=...), or Keras' model.export"
            raise SourceFailed(f"'{called}' has no signatures", hint=hint)
        raise SourceFailed(f"'{called}' has no signature '{name}'", hint=near(name, signatures))
    signature = loaded.signatures[name]
    specs = signature.structured_input_signature[1]
    outputs = tuple(sorted(signature.structured_outputs, key=_by_number))

    def call(tensors: Mapping[str, Any]) -> Sequence[Any]:
        result = signature(**{each: tensors[each] for each in specs})
        return [result[each] for each in outputs]

    return _Model(
        called=called,
        inputs={each: (_dims(spec.shape), spec.dtype.name) for each, spec in specs.items()},
        outputs=outputs,
        call=call,
        weights=signature.variables,
    )


def _by_number(name: str) -> tuple[object, ...]:
    """Keras calls outputs output_0, output_1, …: the tenth is not the second."""
    parts = re.split(r"(\d+)", name)
    return tuple(int(part) if index % 2 else part for index, part in enumerate(parts))


def _check_operators(path: Path, called: str) -> None:
    """SourceFailed where a SavedModel has operators that read or write files: some run when it is
    loaded."""
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel()
    try:
        saved.ParseFromString(path.read_bytes())
    except DecodeError as error:
        message = f"'{called}' cannot be loaded: its 'saved_model.pb' is damaged or truncated"
        raise SourceFailed(message) from error
    for graph in (each.graph_def for each in saved.meta_graphs):
        holders = [graph.node, *(function.node_def for function in graph.library.function)]
        for operator in sorted({node.op for nodes in holders for node in nodes}):
            if operator in _TOUCHES_FILES:
                message = f"'{called}' has the operator '{operator}', which reaches outside of it"
                raise SourceFailed(message, hint=_TRUST)


# Keras


def _keras_model(path: Path, source: TensorflowSource) -> _Model:
    import keras

    called = str(source.keras)
    if source.signature is not None:
        raise SourceFailed(f"'{called}' is a file of Keras, which has no signatures")
    _check_file(path, called)
    if (backend := keras.backend.backend()) != "tensorflow":
        message = f"Keras is set to use '{backend}' here, and models are exported with TensorFlow"
        raise SourceFailed(message, hint="~/.keras/keras.json, or KERAS_BACKEND=tensorflow")
    if source.trust:
        warn_of_code(called)
    try:
        model = keras.models.load_model(str(path), compile=False, safe_mode=not source.trust)
    except Exception as error:  # what damaged files raise has no end
        raise _unloaded(error, called) from error
    sequential = isinstance(model, keras.Sequential)
    tensors = getattr(model, "inputs", None) if model.built else None
    if not tensors:
        message = f"'{called}' says nothing of the inputs that it takes"
        raise SourceFailed(message, hint="give it a keras.Input, or save it by model.export")
    structure = tensors[0] if sequential else model.input
    names = [model.layers[-1].name] if sequential else list(model.output_names)
    if len(set(names)) < len(names):
        names = [f"output_{index}" for index in range(len(names))]

    def call(given: Mapping[str, Any]) -> Sequence[Any]:
        result = model(
            keras.tree.map_structure(lambda tensor: given[tensor.name], structure), training=False
        )
        return list(keras.tree.flatten(result))

    return _Model(
        called=called,
        inputs={each.name: (_dims(each.shape), str(each.dtype)) for each in tensors},
        outputs=tuple(names),
        call=call,
        weights=[each.value for each in model.weights],
    )


def _check_file(path: Path, called: str) -> None:
    start = beginning(path, called)
    if path.suffix not in (*_ZIP, *_HDF5):
        message = f"'{called}': expected a file that ends in {', '.join((*_ZIP, *_HDF5))}"
        raise SourceFailed(message, hint="a folder with a 'saved_model.pb': saved_model: folder")
    if path.suffix in _ZIP and not zipfile.is_zipfile(path):
        raise SourceFailed(f"'{called}' is damaged or truncated: no whole .keras file")
    if path.suffix in _HDF5 and not start.startswith(_HDF5_START):
        raise SourceFailed(f"'{called}' is damaged: no HDF5 file")


def _unloaded(error: Exception, called: str) -> SourceFailed:
    said = str(error)
    if "safe_mode" in said or "unsafe_deserialization" in said:
        layer = " in a Lambda layer" if "Lambda" in said else ""
        return SourceFailed(f"'{called}' holds Python code{layer}", hint=_TRUST)
    if found := re.search(r"Could not locate \w+ '(\w+)'|Unknown \w+: '(\w+)'", said):
        return SourceFailed(
            f"'{called}' is made with '{found[1] or found[2]}', which the file does not hold",
            hint="a SavedModel holds all of a model: model.export('folder'), saved_model: folder",
        )
    return SourceFailed(f"'{called}' cannot be loaded: {_said(error)}")


# ONNX


def _convert(model: _Model, source: TensorflowSource, inputs: Mapping[str, InputAxes]) -> bytes:
    import tensorflow as tf
    from tf2onnx import convert

    opset = _opset(source.opset, model.called)
    bound = _bound(model, inputs)
    outputs = _output_names(model, source.outputs, inputs)
    size = sum(each.shape.num_elements() * each.dtype.size for each in model.weights)
    if size > _MOST_BYTES:
        message = f"the weights of '{model.called}' take {size / (1 << 30):.1f} GiB"
        raise SourceFailed(message, hint="tf2onnx writes files of up to 2 GiB")
    # Names of our own, in an order that sorting keeps: TensorFlow sorts, and is choosy.
    given = [f"in_{index:04}" for index in range(len(inputs))]
    result = [f"out_{index:04}" for index in range(len(outputs))]
    specs = [
        tf.TensorSpec(axes.dims, model.inputs[bound[name]][1], name=each)
        for each, (name, axes) in zip(given, inputs.items(), strict=True)
    ]

    def traced(*tensors: Any) -> dict[str, Any]:  # noqa: ANN401
        by_name = dict(zip((bound[name] for name in inputs), tensors, strict=True))
        return dict(zip(result, model.call(by_name), strict=True))

    try:
        made = _tf2onnx(convert, tf.function(traced, input_signature=specs), specs, opset)
    except Exception as error:  # what tracing and tf2onnx raise has no end
        raise SourceFailed(f"'{model.called}' failed: {_said(error)}") from error
    _check_result(made, given, model.called, opset)
    _sort(made.graph.output, result)
    settle(
        made,
        dict(zip(given, inputs, strict=True)),
        dict(zip(result, outputs, strict=True)),
    )
    return bytes(made.SerializeToString(deterministic=True))


def _tf2onnx(convert: Any, function: Any, specs: Sequence[Any], opset: int) -> Any:  # noqa: ANN401
    from engineforge.stages.sources.tensorflow.operators import HANDLERS

    handlers: dict[str, Any] = {name: (handler, []) for name, handler in HANDLERS.items()}
    made, _ = convert.from_function(function, specs, opset=opset, custom_op_handlers=handlers)
    return made


def _opset(asked: int | None, called: str) -> int:
    from tf2onnx import constants

    opset = asked or TENSORFLOW_OPSET
    newest = max(constants.OPSET_TO_IR_VERSION)
    if opset > newest:
        message = f"'{called}': tf2onnx writes opsets up to {newest}, not {opset}"
        raise SourceFailed(message, hint=f"raise it afterwards: prepare: {{opset: {opset}}}")
    return opset


def _bound(model: _Model, inputs: Mapping[str, InputAxes]) -> dict[str, str]:
    """The model's name of each input; SourceFailed where they do not fit."""
    if len(inputs) == len(model.inputs) == 1:
        bound = {next(iter(inputs)): next(iter(model.inputs))}
    elif set(inputs) == set(model.inputs):
        bound = {name: name for name in inputs}
    else:
        theirs = ", ".join(f"'{each}'" for each in model.inputs)
        ours = ", ".join(f"'{each}'" for each in inputs)
        raise SourceFailed(f"'{model.called}' takes {theirs}, and the spec has {ours}")
    for name, axes in inputs.items():
        dims, kind = model.inputs[bound[name]]
        if kind == "string":
            message = f"'{model.called}': input '{name}' is of text, which TensorRT has no type for"
            raise SourceFailed(message, hint="export a signature that takes numbers")
        _check_axes(name, axes.dims, dims, model.called)
    return bound


def _check_axes(
    name: str, asked: tuple[int | None, ...], dims: tuple[int | None, ...] | None, called: str
) -> None:
    if dims is None or _fits(asked, dims):
        return
    spec, model = _text(asked), _text(dims)
    message = f"input '{name}' is {spec} in the spec, and {model} in '{called}'"
    moved = (*asked[:1], *asked[2:], *asked[1:2])
    if len(asked) >= _IMAGE_AXES and _fits(moved, dims):
        hint = f"TensorFlow's images are NHWC, their channels last: write {_text(moved)}"
    elif len(asked) == len(dims) and _fits(
        tuple(size if want is None else want for want, size in zip(asked, dims, strict=True)), dims
    ):
        hint = "an axis of one size cannot vary: write that size for min, opt and max"
    else:
        hint = f"write {model}, with '*' any size"
    raise SourceFailed(message, hint=hint)


def _fits(asked: tuple[int | None, ...], dims: tuple[int | None, ...]) -> bool:
    return len(asked) == len(dims) and all(
        size is None or want == size for want, size in zip(asked, dims, strict=True)
    )


def _text(dims: Sequence[int | None]) -> str:
    return f"[{', '.join('*' if each is None else str(each) for each in dims)}]"


def _dims(shape: Any) -> tuple[int | None, ...] | None:  # noqa: ANN401
    """Of a shape of TensorFlow or Keras."""
    rank = getattr(shape, "rank", None) if hasattr(shape, "rank") else len(shape)
    return None if rank is None else tuple(shape)


def _output_names(
    model: _Model, asked: tuple[str, ...], inputs: Mapping[str, InputAxes]
) -> tuple[str, ...]:
    if asked and len(asked) != len(model.outputs):
        theirs = ", ".join(f"'{each}'" for each in model.outputs)
        count = "1 output" if len(model.outputs) == 1 else f"{len(model.outputs)} outputs"
        message = f"'{model.called}' has {count} ({theirs}), and 'outputs' names {len(asked)}"
        raise SourceFailed(message, hint="'outputs' names all of them, in this order")
    names = asked or model.outputs
    for index, name in enumerate(names):
        if name in inputs or name in names[:index]:
            message = f"'{model.called}': two of its inputs and outputs would be called '{name}'"
            raise SourceFailed(message, hint="'outputs' gives its outputs other names")
    return names


def _check_result(made: Any, given: Sequence[str], called: str, opset: int) -> None:  # noqa: ANN401
    """tf2onnx leaves operators that it does not know as they are, and drops unused inputs."""
    unknown = sorted(set(_unknown(made.graph.node, opset)))
    if unknown:
        names = ", ".join(f"'{each}'" for each in unknown)
        message = f"'{called}': tf2onnx has no form in ONNX of {names}"
        raise SourceFailed(message, hint="write the model with other operators")
    if [each.name for each in made.graph.input] != list(given):
        _sort(made.graph.input, given)
    for kept in [each for each in made.opset_import if each.domain]:
        made.opset_import.remove(kept)


def _unknown(nodes: Sequence[Any], opset: int) -> Iterator[str]:
    import onnx

    for node in nodes:
        try:
            onnx.defs.get_schema(node.op_type, opset, node.domain)
            known = not node.domain
        except onnx.defs.SchemaError:
            known = False
        if not known:
            yield node.op_type
        for attribute in node.attribute:
            yield from _unknown(attribute.g.node, opset)


def _sort(values: Any, names: Sequence[str]) -> None:  # noqa: ANN401
    values.sort(key=lambda each: names.index(each.name))


def _said(error: BaseException) -> str:
    """The first line that says something, of messages that are pages long."""
    lines = [each.strip() for each in _COLOURS.sub("", str(error)).splitlines()]
    text = next((each for each in lines if each and not each.startswith("Exception enc")), "")
    return f"{type(error).__name__}: {text}".rstrip(": ")
