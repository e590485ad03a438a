"""The network of a build: filled from an ONNX file, and given its optimization profiles."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from engineforge.backends import BuildError
from engineforge.backends.library import api
from engineforge.backends.network_settings import inputs_of, outputs_of
from engineforge.backends.words import Words
from engineforge.spec.model import Profile


def make_network(trt: Any, builder: Any) -> Any:  # noqa: ANN401 - TensorRT has no types
    """Strongly typed where the version has it; 8 is left to `weak`."""
    flags = trt.NetworkDefinitionCreationFlag
    flag = flags.STRONGLY_TYPED if api(trt).strongly_typed else flags.EXPLICIT_BATCH
    return builder.create_network(1 << int(flag))


def parse(trt: ModuleType, parser: Any, network: Any, model: Path, words: Words) -> None:  # noqa: ANN401
    """Fill the network; BuildError with the parser's own words."""
    if parser.parse_from_file(str(model)):
        # parse() returns True for some input that is no model, and adds nothing.
        if network.num_outputs == 0:
            raise BuildError("the model has no outputs")
        words.no_errors("while it parsed the model")
        return
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    lines = [_parser_error(trt, error) for error in errors]
    what = "TensorRT cannot parse the model:" + "".join(f"\n  {line}" for line in lines)
    # TensorRT 8 names an operator that it lacks in its log alone.
    said = words.said() if not lines or not api(trt).names_nodes else ""
    raise BuildError(what + said, hint=words.hint(what))


def _parser_error(trt: ModuleType, error: Any) -> str:  # noqa: ANN401 - the parser's own class
    where = ""
    if not api(trt).names_nodes:
        where = f"node {error.node()}: " if error.node() >= 0 else ""
    elif error.node_name() or error.node_operator():
        name = f"'{error.node_name()}'" if error.node_name() else str(error.node())
        where = f"node {name} (operator {error.node_operator()}): "
    return f"{where}{error.desc()} [{str(error.code()).rpartition('.')[2]}]"


def add_profile(
    index: int,
    given: Profile,
    *,
    builder: Any,  # noqa: ANN401 - TensorRT has no types
    config: Any,  # noqa: ANN401
    network: Any,  # noqa: ANN401
    words: Words,
) -> None:
    """Add one optimization profile; BuildError where TensorRT would take it and not mean it."""
    inputs = {tensor.name: tensor for tensor in inputs_of(network)}
    profile = builder.create_optimization_profile()
    for name, asked in given.items():
        if name not in inputs:  # TensorRT takes any name without a word
            raise BuildError(f"profile {index}: the network has no input '{name}'")
        if asked.values is not None and not inputs[name].is_shape_tensor:
            raise BuildError(  # TensorRT warns and goes on
                f"profile {index}: 'values' are for shape tensors, and '{name}' is none",
                hint="give the shape of that input, or nothing if it is fixed",
            )
        if (shape := asked.shape) is not None:
            wanted = [shape.min, shape.opt, shape.max]
            profile.set_shape(name, *wanted)
            _kept(index, name, wanted, profile.get_shape(name))
        if (values := asked.values) is not None:
            wanted = [values.min, values.opt, values.max]
            profile.set_shape_input(name, *wanted)
            _kept(index, name, wanted, profile.get_shape_input(name))
    for name, tensor in inputs.items():
        if tensor.is_shape_tensor and (name not in given or given[name].values is None):
            raise BuildError(
                f"profile {index}: '{name}' is a shape tensor: its values decide shapes",
                hint=f"write {name}: {{values: {{min: […], opt: […], max: […]}}}}",
            )
    if config.add_optimization_profile(profile) != index:
        raise BuildError(f"TensorRT refused profile {index}{words.said()}")


def _kept(index: int, name: str, wanted: list[tuple[int, ...]], found: Any) -> None:  # noqa: ANN401
    kept = [tuple(dims) for dims in found]
    if kept != wanted:
        raise BuildError(
            f"profile {index}: {wanted} was set for '{name}', and TensorRT kept {kept}"
        )


def interfaces(network: Any) -> tuple[list[str], list[str]]:  # noqa: ANN401
    """Inputs and outputs as the engine has them, whatever the ONNX model says."""
    return [*map(_interface, inputs_of(network))], [*map(_interface, outputs_of(network))]


def tensors(network: Any) -> dict[str, list[dict[str, Any]]]:  # noqa: ANN401
    """The same as values: `dtype` is TensorRT's name, -1 in `dims` a dimension that changes, of
    which `dimensions` has the names (None without one)."""
    return {
        "inputs": [*map(_tensor, inputs_of(network))],
        "outputs": [*map(_tensor, outputs_of(network))],
    }


def _tensor(tensor: Any) -> dict[str, Any]:  # noqa: ANN401 - TensorRT's ITensor
    return {
        "name": tensor.name,
        "dtype": tensor.dtype.name,
        "dims": list(tensor.shape),
        "dimensions": [tensor.get_dimension_name(i) or None for i in range(len(tensor.shape))],
        "shape_tensor": bool(tensor.is_shape_tensor),
    }


def _interface(tensor: Any) -> str:  # noqa: ANN401 - TensorRT's ITensor
    names = [tensor.get_dimension_name(i) for i in range(len(tensor.shape))]
    dims = [
        str(dim) if dim >= 0 else name or "unnamed"
        for dim, name in zip(tensor.shape, names, strict=True)
    ]
    return f"'{tensor.name}' {tensor.dtype.name.lower()} [{', '.join(dims)}]"
