"""A variant against the interface of its model: names, ranks, dimensions, precision."""

from __future__ import annotations

from collections.abc import Iterator

from engineforge.errors import Problem
from engineforge.spec.load import Place
from engineforge.spec.matrix import Cell
from engineforge.spec.model import InputRange, ModelInterface, Profile, ShapeRange, TensorInterface
from engineforge.spec.validate import did_you_mean, nearest

_Bounds = tuple[int, int, int]

# Features of a graph that is not FP32 throughout, by what inspection calls them.
_LOW_PRECISION = ("fp16", "bf16", "fp8-e4m3", "fp8-e5m2", "int4", "fp4", "quantized")


# ONNX element types that no TensorRT takes as input or output.
_UNKNOWN_TYPES = frozenset(
    ["string", "int16", "uint16", "uint32", "uint64", "complex64", "complex128", "no tensor"]
)


def check_cell(cell: Cell, interface: ModelInterface) -> list[Problem]:
    """Every way in which a variant does not fit its model; none means that it may be built."""
    problems = list(_precision(cell, interface))
    at_source = Place(cell.target.document, ("model", "source", "path"))
    for tensor in (*interface.inputs, *interface.outputs):
        if tensor.type in _UNKNOWN_TYPES:
            message = f"TensorRT has no inputs or outputs of the type of {tensor}"
            problems.append(at_source.problem(message, "cast it inside the model"))
    for profile, place in zip(cell.variant.profiles, cell.profiles, strict=True):
        problems += _profile(profile, place, interface)
    if not cell.variant.profiles:
        for tensor in interface.inputs:
            if _is_dynamic(tensor):
                problems.append(
                    cell.profiles_belong.problem(*_needs_range(tensor, "under 'inputs'"))
                )
    return problems


def _is_dynamic(tensor: TensorInterface) -> bool:
    return any(not isinstance(dim, int) for dim in tensor.dims)


def _needs_range(tensor: TensorInterface, where: str) -> tuple[str, str]:
    at = "[" + ", ".join(str(dim) if isinstance(dim, int) else "…" for dim in tensor.dims) + "]"
    free = [i for i, dim in enumerate(tensor.dims) if not isinstance(dim, int)]
    return (
        f"the model's input {tensor} has dimensions that may vary, and no profile gives them",
        f"write {where}: {tensor.name}: {{min: {at}, opt: {at}, max: {at}}}, with numbers "
        f"at position{'s' if len(free) > 1 else ''} {', '.join(map(str, free))}",
    )


def _precision(cell: Cell, interface: ModelInterface) -> Iterator[Problem]:
    """Only an FP32 model can be built as FP32, or be converted to something lower."""
    name = cell.variant.precision.name
    if name == "source" and not cell.variant.precision.converts:
        return
    for feature in _LOW_PRECISION:
        if feature in interface.features:
            yield cell.precision.problem(
                f"precision '{name}' takes an FP32 model, and this one is {feature} at "
                f"'{interface.features[feature]}'",
                "write 'precision: source' to build the model with the types that it has",
            )
            return


def _profile(profile: Profile, place: Place, interface: ModelInterface) -> Iterator[Problem]:
    inputs = {tensor.name: tensor for tensor in interface.inputs}
    meant = set()
    sizes: dict[str, tuple[str, int, _Bounds]] = {}
    for name, given in profile.items():
        tensor = inputs.get(name)
        if tensor is None:
            meant.add(nearest(name, inputs))
            message = f"the model has no input '{name}'"
            yield place.problem(message, did_you_mean(name, inputs), name)
            continue
        if given.shape is not None:
            yield from _shape(given.shape, tensor, place, sizes)
        if given.values is not None:
            yield from _values(given, tensor, place)
    for name, tensor in inputs.items():
        if name not in profile and name not in meant and _is_dynamic(tensor):
            yield place.problem(*_needs_range(tensor, "here"))


def _shape(
    shape: ShapeRange,
    tensor: TensorInterface,
    place: Place,
    sizes: dict[str, tuple[str, int, _Bounds]],
) -> Iterator[Problem]:
    if len(shape.opt) != len(tensor.dims):
        yield place.problem(
            f"the model's input {tensor} has {len(tensor.dims)} dimensions, found {len(shape.opt)}",
            None,
            tensor.name,
        )
        return
    for at, dim in enumerate(tensor.dims):
        found = (shape.min[at], shape.opt[at], shape.max[at])
        if isinstance(dim, int) and found != (dim, dim, dim):
            yield place.problem(
                f"dimension {at} of {tensor} is fixed by the model: expected {dim}, "
                f"found {_bounds(found)}",
                f"write {dim} at position {at}"
                + (" of min, opt and max" if len(set(found)) > 1 else ""),
                tensor.name,
            )
        elif isinstance(dim, str):
            other, where, first = sizes.setdefault(dim, (tensor.name, at, found))
            if first != found:
                yield place.problem(
                    f"dimension {at} of '{tensor.name}' and dimension {where} of '{other}' are "
                    f"both named '{dim}' in the model, so they are one size: expected "
                    f"{_bounds(first)}, found {_bounds(found)}",
                    None,
                    tensor.name,
                )


def _bounds(bounds: _Bounds) -> str:
    return " <= ".join(map(str, bounds)) if len(set(bounds)) > 1 else str(bounds[0])


def _values(given: InputRange, tensor: TensorInterface, place: Place) -> Iterator[Problem]:
    if tensor.type not in ("int32", "int64"):
        yield place.problem(
            f"only integer inputs can be shape tensors, and the model's input {tensor} is not",
            "remove 'values', or give the input's shape",
            tensor.name,
            "values",
        )
    values = given.values
    if values is None or any(not isinstance(dim, int) for dim in tensor.dims):
        return
    count = 1
    for dim in tensor.dims:
        count *= int(dim or 0)
    if len(values.opt) != count:
        yield place.problem(
            f"the model's input {tensor} holds {count} values, found {len(values.opt)}",
            None,
            tensor.name,
            "values",
        )
