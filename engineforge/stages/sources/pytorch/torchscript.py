"""TorchScript archives to ONNX, by the exporter that PyTorch had before `torch.export`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engineforge.spec.sources import InputAxes, PytorchSource
from engineforge.stages.sources import SourceFailed
from engineforge.stages.sources.pytorch.axes import Inputs, axis_names, has_batch, in_order, zeros
from engineforge.stages.sources.pytorch.checkpoints import read_torchscript
from engineforge.stages.sources.pytorch.refusals import check_tensors, explained

Module = Any


def export_torchscript(
    source: PytorchSource, called: str, folder: Path, inputs: Inputs, path: Path
) -> None:
    import torch

    module = read_torchscript(folder / called, called, trust=source.trust).eval()
    check_tensors({**dict(module.named_parameters()), **dict(module.named_buffers())}, called)
    parameters = [each.name for each in module.forward.schema.arguments[1:]]
    names = in_order(parameters, inputs, called)
    arguments = tuple(zeros(inputs[name], inputs[name].example) for name in names)
    _run_twice(module, [inputs[name] for name in names], called)
    axes = axis_names(inputs)
    try:
        torch.onnx.export(
            module,
            arguments,
            str(path),
            dynamo=False,
            dynamic_axes={name: each for name, each in axes.items() if each},
            input_names=names,
            output_names=list(source.outputs) or None,
            opset_version=source.opset,
        )
    except Exception as error:  # whatever torch raises
        raise explained(error, f"'{called}'") from error
    _in_one_file(path)


def _run_twice(module: Module, inputs: Sequence[InputAxes], called: str) -> None:
    """SourceFailed where the module takes no other batch than that of the example: tracing writes
    sizes into a module as numbers, and the ONNX model would have them too."""
    import torch

    batches = (False, True) if has_batch(dict(enumerate(inputs))) else (False,)  # type: ignore[arg-type]
    for doubled in batches:
        shapes = [each.example for each in inputs]
        if doubled:
            shapes = [(2 * first, *rest) for first, *rest in shapes]
        tensors = [zeros(each, shape) for each, shape in zip(inputs, shapes, strict=True)]
        try:
            with torch.no_grad():
                module(*tensors)
        except Exception as error:  # whatever its code raises
            said = str(error).strip().splitlines()[-1]
            shown = ", ".join(str(list(shape)) for shape in shapes)
            hint = None
            if doubled:
                hint = "tracing keeps sizes as numbers: torch.jit.script, or a 'module'"
            raise SourceFailed(
                f"'{called}' fails with inputs {shown}: {said}", hint=hint
            ) from error


def _in_one_file(path: Path) -> None:
    """Above 2 GB the exporter leaves a file for each tensor."""
    import onnx

    beside = [each for each in path.parent.iterdir() if each != path]
    if not beside:
        return
    model = onnx.load(path)
    for each in (path, *beside):
        each.unlink()
    onnx.save_model(
        model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=1024
    )
