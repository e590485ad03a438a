"""PyTorch models to ONNX: exported programs, TorchScript, and modules that a function makes."""

from __future__ import annotations

import contextlib
import inspect
import logging
import random
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from engineforge.samples.user_code import UserCode
from engineforge.spec.sources import InputAxes, PytorchSource
from engineforge.stages.sources import SourceFailed
from engineforge.stages.sources.exporters import PYTORCH_OPSET, importable
from engineforge.stages.sources.onnx import read_model
from engineforge.stages.sources.pytorch.axes import Inputs, axis_names, in_order, varying, zeros
from engineforge.stages.sources.pytorch.checkpoints import read_program, read_weights
from engineforge.stages.sources.pytorch.refusals import UNFIX, bf16, check_tensors, explained
from engineforge.stages.sources.pytorch.torchscript import export_torchscript

_MOST_KEYS = 5

# PyTorch is imported where it is used alone, so its types cannot be named.
Module = Any
Exported = Any


def export(
    source: PytorchSource,
    *,
    folder: Path,
    files: Sequence[Path],
    inputs: Mapping[str, InputAxes],
    out: Path,
) -> None:
    """Write `out/model.onnx`, and `out/model.onnx.data` if it is large; SourceFailed if it cannot.

    An axis that varies in `inputs` varies in the model. `source.module` is imported and called with
    the seeds of PyTorch, NumPy and Python at 0, so that weights that nothing else says are the same
    each time.
    """
    _check_types(inputs)
    source = replace(source, opset=source.opset or PYTORCH_OPSET)
    path = out / "model.onnx"
    with warnings.catch_warnings():
        if source.module is None:
            # Of the exporter's own: deprecations, and what it thinks of traced code.
            warnings.simplefilter("ignore")
        if source.program is not None:
            _export_program(source, source.program, folder, inputs, path)
        elif source.torchscript is not None:
            export_torchscript(source, source.torchscript, folder, inputs, path)
        else:
            _export_module(source, folder, files, inputs, path)
    _check_model(source, inputs, path)


def _check_types(inputs: Inputs) -> None:
    import torch

    for name, axes in inputs.items():
        if axes.type == "bfloat16":
            raise bf16(f"input '{name}' is")
        if not isinstance(getattr(torch, axes.type, None), torch.dtype):
            raise SourceFailed(f"input '{name}': PyTorch has no type '{axes.type}'")


# Modules


def _export_module(
    source: PytorchSource,
    folder: Path,
    files: Sequence[Path],
    inputs: Inputs,
    path: Path,
) -> None:
    import torch
    import torch._dynamo  # what PyTorch itself imports as it likes is there before any module

    function = str(source.module)
    user = UserCode.find(
        function,
        folder,
        files,
        raises=SourceFailed,
        listed="under 'pytorch'",
        packages=importable(source),
    )
    with _seeded(), user.imported() as factory:
        with user.running():
            before = torch.random.get_rng_state()
            module = factory(**source.arguments)
            drawn = not torch.equal(before, torch.random.get_rng_state())
            if drawn and source.weights is None and all(each.suffix == ".py" for each in files):
                logging.getLogger(__name__).warning(
                    "%s draws its parameters at random, and no 'weights' are given", user.called
                )
            if not isinstance(module, torch.nn.Module):
                message = f"{user.called} gave a {type(module).__name__}"
                raise SourceFailed(message, hint="expected a torch.nn.Module")
            if source.weights is not None:
                weights = read_weights(folder / source.weights, source.weights, trust=source.trust)
                _load(module, weights, source.weights)
            module.eval()
            check_tensors(dict(module.named_parameters()), function)
            check_tensors(dict(module.named_buffers()), function)
            names = _parameters(module, inputs, function)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            arguments, shapes = _arguments(names, inputs), _shapes(names, inputs)
            with user.running():
                try:
                    program = _dynamo(source, module, arguments, shapes, [*names])
                except Exception as error:  # whatever the model's code and torch raise
                    raise explained(error, user.called, user.line) from error
            program.save(path)


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    """All that a module may take its numbers from begins at 0, and is as it was afterwards."""
    import torch

    python, legacy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)


def _load(module: Module, weights: Mapping[str, Any], called: str) -> None:
    """`load_state_dict(strict=True)`, but for a tensor that the file has under another name of it,
    as safetensors keeps of tied weights only one."""
    try:
        missing, unexpected = module.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        said = " ".join(str(error).partition(":")[2].split())
        raise SourceFailed(f"'{called}' does not fit the module: {said}") from error
    own = {name: _memory(each) for name, each in module.state_dict(keep_vars=True).items()}
    there = {own.get(name) for name in weights}
    missing = [each for each in missing if own[each] is None or own[each] not in there]
    if not missing and not unexpected:
        return
    parts = [("has no", missing), ("has more than the module:", unexpected)]
    said = " and ".join(f"{what} {_listed(names)}" for what, names in parts if names)
    raise SourceFailed(f"'{called}' {said}", hint=_prefix(missing, unexpected))


def _memory(value: object) -> tuple[object, ...] | None:
    """Where the values of a tensor are; equal for two names of one."""
    import torch

    if not isinstance(value, torch.Tensor) or not value.data_ptr():
        return None
    return value.data_ptr(), value.shape, value.stride(), value.dtype


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_KEYS} more" if len(names) > _MOST_KEYS else ""
    return ", ".join(f"'{each}'" for each in names[:_MOST_KEYS]) + more


def _prefix(missing: Sequence[str], unexpected: Sequence[str]) -> str:
    for one, other, what in ((missing, unexpected, "more"), (unexpected, missing, "less")):
        if one and other and other[0].endswith(f".{one[0]}"):
            prefix = other[0].removesuffix(one[0])
            return f"the names in the file have '{prefix}' {what} in front than the module's"
    return "weights must be of the module that the function makes with these 'arguments'"


def _parameters(module: Module, inputs: Inputs, function: str) -> dict[str, str | tuple[str, int]]:
    """Of each input the parameter of `forward` that it is, by name; a single one may have a name of
    its own, and so may those of `*args`, by position: with a number, of several."""
    signature = inspect.signature(module.forward)
    found = signature.parameters
    if all(name in found for name in inputs):
        taken: dict[str, str | tuple[str, int]] = {name: name for name in found if name in inputs}
        given: tuple[list[None], dict[str, None]] = ([], dict.fromkeys(inputs))
    else:
        taken, given = {}, ([None] * len(inputs), {})
        several = [n for n, each in found.items() if each.kind is inspect.Parameter.VAR_POSITIONAL]
        single = [n for n in found if n not in several]
        if len(inputs) > 1 and not several:
            named, wants = ", ".join(inputs), ", ".join(found)
            raise SourceFailed(
                f"'{function}': inputs ({named}) are not those of forward({wants})",
                hint="name the inputs like the parameters of 'forward'",
            )
        for index, name in enumerate(inputs):
            rest = (several[0], index - len(single)) if several else ""
            taken[name] = single[index] if index < len(single) else rest
    try:
        signature.bind(*given[0], **given[1])
    except TypeError as error:
        named, wants = ", ".join(inputs), ", ".join(found)
        message = f"'{function}': inputs ({named}) do not fit forward({wants}): {error}"
        raise SourceFailed(
            message, hint="name the inputs like the parameters of 'forward'"
        ) from error
    return taken


def _arguments(
    names: Mapping[str, str | tuple[str, int]],
    inputs: Inputs,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    tensors = {name: zeros(inputs[name], inputs[name].example) for name in names}
    if any(not isinstance(each, str) for each in names.values()):
        return tuple(tensors.values()), {}
    return (), {str(names[name]): tensor for name, tensor in tensors.items()}


def _shapes(names: Mapping[str, str | tuple[str, int]], inputs: Inputs) -> dict[str, Any]:
    """The dynamic shapes by parameter; a tuple of them for one that takes several."""
    axes = axis_names(inputs)
    found: dict[str, Any] = {}
    for name, parameter in names.items():
        if isinstance(parameter, str):
            found[parameter] = axes[name]
        else:
            found[parameter[0]] = (*found.get(parameter[0], ()), axes[name])
    return found


def _placeholders(exported: Exported) -> dict[str, Any]:
    """The tensors that the inputs of an exported program are, by their names in it."""
    names = [each for each in exported.graph_signature.user_inputs if isinstance(each, str)]
    values = {each.name: each.meta.get("val") for each in exported.graph.nodes}
    return {name: values[name] for name in names}


def _dynamo(
    source: PytorchSource,
    model: Module,
    arguments: tuple[tuple[Any, ...], dict[str, Any]],
    shapes: dict[str, Any] | None,
    names: Sequence[str],
) -> Exported:
    import torch

    return torch.onnx.export(
        model,
        arguments[0],
        kwargs=arguments[1],
        dynamo=True,
        dynamic_shapes=shapes,
        input_names=list(names),
        output_names=list(source.outputs) or None,
        opset_version=source.opset,
        verbose=False,
    )


# Programs


def _export_program(
    source: PytorchSource, called: str, folder: Path, inputs: Inputs, path: Path
) -> None:
    exported = read_program(folder / called, called, trust=source.trust)
    check_tensors({**exported.state_dict, **exported.constants}, called)
    names = _fit(_placeholders(exported), inputs, called)
    try:
        program = _dynamo(source, exported, ((), {}), None, names)
    except Exception as error:  # whatever torch raises
        raise explained(error, f"'{called}'") from error
    _rename_axes(program.model.graph, inputs)
    program.save(path)


def _fit(tensors: Mapping[str, Any], inputs: Inputs, called: str) -> list[str]:
    """The inputs of the spec in the order of the program's; SourceFailed where they differ."""
    import torch

    names = in_order([*tensors], inputs, called)
    for name, tensor in zip(names, tensors.values(), strict=True):
        axes = inputs[name]
        if not isinstance(tensor, torch.Tensor):
            kind = type(tensor).__name__
            raise SourceFailed(f"'{called}': input '{name}' is a {kind}, not a tensor")
        has = [size if isinstance(size, int) else None for size in tensor.shape]
        of_type = str(tensor.dtype).removeprefix("torch.")
        if of_type != axes.type:
            message = f"'{called}': input '{name}' is {of_type}, and the spec says {axes.type}"
            raise SourceFailed(message, hint=f"inputs: {{{name}: {of_type}}} beside 'program'")
        differ = [
            axis for axis, size in enumerate(has) if size not in (None, *axes.dims[axis:][:1])
        ]
        if len(has) == len(axes.dims) and differ and axes.dims[differ[0]] is None:
            raise _is_fixed(called, name, differ[0], has[differ[0]])
        if len(has) != len(axes.dims) or differ:
            raise SourceFailed(
                f"'{called}': input '{name}' has the shape {_shape(has)}, and the spec says "
                f"{_shape(axes.dims)}"
            )
    return names


def _shape(dims: Sequence[int | None]) -> str:
    return "[" + ", ".join("?" if each is None else str(each) for each in dims) + "]"


def _is_fixed(called: str, name: str, axis: int, size: object) -> SourceFailed:
    return SourceFailed(
        f"'{called}': axis {axis} of input '{name}' varies in the spec, and the program was "
        f"exported with {size} there",
        hint=f"torch.export.export(..., dynamic_shapes=...) keeps an axis open; or write {size} "
        "for min, opt and max",
    )


def _rename_axes(graph: Exported, inputs: Inputs) -> None:
    """Give axes the names that modules get: a program has symbols such as `s77` there."""
    wanted: dict[str, str] = {}
    names = axis_names(inputs)
    for value in graph.inputs:
        for axis, name in names[value.name].items():
            wanted.setdefault(str(value.shape[axis]), name)
    for value in (*graph.inputs, *graph.outputs):
        for axis, size in enumerate(value.shape or ()):
            if not isinstance(size, int):
                value.shape[axis] = re.sub(
                    r"[A-Za-z_]\w*", lambda found: wanted.get(found[0], found[0]), str(size)
                )


def _check_model(source: PytorchSource, inputs: Inputs, path: Path) -> None:
    """SourceFailed where the exported model is not what was asked for."""
    called = f"'{source.program or source.torchscript or source.module}'"
    model = read_model(path)
    opset = next(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))
    if opset != source.opset:
        raise SourceFailed(
            f"{called}: PyTorch exported opset {opset}, not {source.opset}",
            hint=f"leave out 'opset', and write prepare: {{opset: {source.opset}}} beside 'source'",
        )
    outputs = [each.name for each in model.graph.output]
    if source.outputs and outputs != list(source.outputs):
        raise SourceFailed(
            f"{called} has {len(outputs)} outputs, and 'outputs' names {len(source.outputs)}"
        )
    has = {each.name: each.type.tensor_type.shape.dim for each in model.graph.input}
    for name, axes in inputs.items():
        if name not in has:
            raise SourceFailed(f"{called} does not use its input '{name}'", hint="leave it out")
        for axis, _ in varying(axes):
            if has[name][axis].HasField("dim_value"):
                raise SourceFailed(
                    f"{called}: axis {axis} of input '{name}' varies in the spec, and is "
                    f"{has[name][axis].dim_value} in what PyTorch exported",
                    hint=UNFIX,
                )
