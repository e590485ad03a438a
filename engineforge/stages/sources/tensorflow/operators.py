"""Operators of TensorFlow that tf2onnx has no form for, none that is the same in each run, or none
that FP16 can compute."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_TWO = 2

Handler = Callable[[Any, Any, str, Any], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operand:
    """What is done to a tensor: its axes permuted, then its shape changed; None: left as it is. In
    a shape 0 stands for the size that is there, -1 for what is left."""

    permutation: tuple[int, ...] | None
    shape: tuple[int, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """An Einsum of two tensors as a matrix product. `swapped`: the second one comes first."""

    swapped: bool
    left: Operand
    right: Operand
    shape: tuple[int, ...] | None
    permutation: tuple[int, ...] | None


def as_product(equation: str, shapes: Sequence[Sequence[int] | None]) -> Product | None:
    """The matrix product that an Einsum is; None where it is none, or where more sizes vary than a
    Reshape can find out. Sizes below zero vary."""
    terms, arrow, out = equation.partition("->")
    operands = terms.split(",")
    if not arrow or "." in equation or None in shapes or len(operands) != _TWO:
        return None
    if any(len(set(each)) < len(each) for each in (*operands, out)):
        return None
    sizes: dict[str, int] = {}
    for letters, shape in zip(operands, shapes, strict=True):
        for letter, size in zip(letters, shape or (), strict=True):
            sizes[letter] = max(size, sizes.get(letter, -1))
    a, b = operands
    if any(letter not in out and not (letter in a and letter in b) for letter in sizes):
        return None
    batch = [letter for letter in out if letter in a and letter in b]
    free = [letter for letter in out if letter not in batch]
    swapped = bool(batch and free) and free[0] in b
    if swapped:
        a, b = b, a
    left, right = ([x for x in free if x in each] for each in (a, b))
    summed = [letter for letter in a if letter in b and letter not in out]
    # With no batch, the first may have as many axes as it likes.
    rows = [left] if batch else [[x] for x in left]
    single = [[x] for x in batch]
    first = _operand(a, [*single, *rows, summed], sizes)
    second = _operand(b, [*single, summed, right], sizes)
    made = [*single, *rows, right]
    after = _shape(made, [[x] for group in made for x in group], sizes)
    if first is None or second is None or after is None:
        return None
    order = [letter for group in made for letter in group]
    return Product(
        swapped=swapped,
        left=first,
        right=second,
        shape=None if all(len(group) == 1 for group in made) else after,
        permutation=_permutation(order, out),
    )


def _operand(letters: str, groups: Sequence[Sequence[str]], sizes: Mapping[str, int]) -> Any:  # noqa: ANN401
    order = [letter for group in groups for letter in group]
    shape = _shape([[x] for x in order], groups, sizes)
    if shape is None:
        return None
    merged = any(len(group) != 1 for group in groups)
    return Operand(permutation=_permutation(letters, order), shape=shape if merged else None)


def _permutation(before: Sequence[str], after: Sequence[str]) -> tuple[int, ...] | None:
    found = tuple(before.index(letter) for letter in after)
    return None if found == tuple(range(len(before))) else found


def _shape(
    before: Sequence[Sequence[str]], after: Sequence[Sequence[str]], sizes: Mapping[str, int]
) -> tuple[int, ...] | None:
    """What turns axes that are groups of letters into others; None where two sizes are unknown."""
    shape = []
    for index, group in enumerate(after):
        known = all(sizes[letter] >= 0 for letter in group)
        if known:
            shape.append(math.prod(sizes[letter] for letter in group))
        else:
            same = index < len(before) and list(before[index]) == list(group)
            shape.append(0 if same else -1)
    return None if shape.count(-1) > 1 else tuple(shape)


def _einsum(graph: Any, node: Any, name: str, _: Any) -> None:  # noqa: ANN401
    """Not as tf2onnx does: that makes chains of shapes of it that name nodes by where they lie in
    memory, and that differ from run to run."""
    equation = node.get_attr_value("equation").decode()
    product = as_product(equation, [graph.get_shape(each) for each in node.input])
    if product is None:
        del node.attr["N"]
        return
    inputs = list(reversed(node.input)) if product.swapped else list(node.input)
    result = list(node.output)
    types, shapes = list(node.output_dtypes), list(node.output_shapes)
    graph.remove_node(node.name)
    operands = []
    for tensor, how, side in zip(
        inputs, (product.left, product.right), ("left", "right"), strict=True
    ):
        moved = _transposed(graph, tensor, how.permutation, f"{name}/{side}/transpose")
        operands.append(_reshaped(graph, moved, how.shape, f"{name}/{side}/reshape"))
    made = graph.make_node("MatMul", operands, name=f"{name}/matmul", dtypes=types).output[0]
    made = _reshaped(graph, made, product.shape, f"{name}/reshape")
    made = _transposed(graph, made, product.permutation, f"{name}/transpose")
    graph.make_node("Identity", [made], name=name, outputs=result, shapes=shapes, dtypes=types)


def _transposed(graph: Any, tensor: str, order: Sequence[int] | None, name: str) -> str:  # noqa: ANN401
    if order is None:
        return tensor
    made = graph.make_node("Transpose", [tensor], attr={"perm": list(order)}, name=name)
    return str(made.output[0])


def _reshaped(graph: Any, tensor: str, shape: Sequence[int] | None, name: str) -> str:  # noqa: ANN401
    if shape is None:
        return tensor
    to = graph.make_const(f"{name}/shape", np.array(shape, np.int64))
    return str(graph.make_node("Reshape", [tensor, to.output[0]], name=name).output[0])


def _erfc(graph: Any, node: Any, name: str, _: Any) -> None:  # noqa: ANN401
    """1 - Erf(x). GELU is made of it, and tf2onnx has no form for it."""
    given, result = node.input[0], list(node.output)
    types, shapes = list(node.output_dtypes), list(node.output_shapes)
    kind = graph.get_dtype(given)
    graph.remove_node(node.name)
    erf = graph.make_node("Erf", [given], name=f"{name}/erf", shapes=shapes, dtypes=types)
    one = graph.make_const(f"{name}/one", np.array(1, _numpy_type(kind)))
    both = [one.output[0], erf.output[0]]
    graph.make_node("Sub", both, name=name, outputs=result, shapes=shapes, dtypes=types)


def _select(graph: Any, node: Any, name: str, _: Any) -> None:  # noqa: ANN401
    """Not as tf2onnx does, `x * condition + y * (1 - condition)`: the -3e38 of an attention mask is
    an infinity in FP16, and that times zero is NaN."""
    given, result = list(node.input), list(node.output)
    types, shapes = list(node.output_dtypes), list(node.output_shapes)
    graph.remove_node(node.name)
    graph.make_node("Where", given, name=name, outputs=result, shapes=shapes, dtypes=types)


def _numpy_type(kind: int) -> Any:  # noqa: ANN401
    from onnx import helper

    return helper.tensor_dtype_to_np_dtype(kind)


HANDLERS: Mapping[str, Handler] = {
    "Einsum": _einsum,
    "Erfc": _erfc,
    "SelectV2": _select,
}
