"""A model as a spec to begin with, and with comments that say what may be changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from engineforge.drafting import ranges
from engineforge.drafting.text import comment, flow, scalar
from engineforge.spec.model import ModelInterface
from engineforge.stages.sources.shape_inputs import ShapeUse

_LOW = ("fp16", "bf16", "fp8-e4m3", "fp8-e5m2", "int4", "fp4", "quantized")
_WIDTH = 100


def spec(
    path: str,
    interface: ModelInterface,
    uses: Mapping[str, ShapeUse],
    *,
    targets: Sequence[str],
    no_fp16: str | None,
) -> str:
    """The text of a spec for the model at `path`, as the spec is to name it. `uses` are its shape
    tensors; `no_fp16` is why this host cannot convert it to FP16, if it cannot."""
    made, guessed = ranges.profile(interface, uses)
    lines = ["model:", f"  source: {flow({'path': path})}"]
    lines += comment(_about(interface), 2)
    if made:
        lines.append("")
        lines += comment(
            "Engines take every shape from min to max, and are fastest at opt. These ranges were "
            "guessed from names and positions: put in what you send."
        )
        lines.append("inputs:")
        for name, value in made.items():
            if name in guessed:
                tensor = next(each for each in interface.inputs if each.name == name)
                lines += comment(f"{tensor.type} [{', '.join(guessed[name])}]", 2)
            if "values" in value:
                use = uses[name]
                lines += comment(f"its values say a shape, to {use.operator}: look at them", 2)
            whole = f"  {scalar(name)}: {flow(value)}"
            if len(whole) <= _WIDTH:
                lines.append(whole)
            else:
                lines.append(f"  {scalar(name)}:")
                lines += [f"    {key}: {flow(each)}" for key, each in value.items()]
    lines += ["", f"targets: {flow(list(targets))}", ""]
    lines += _variants(interface, no_fp16)
    return "\n".join(lines) + "\n"


def _about(interface: ModelInterface) -> str:
    opset = interface.opsets.get("", interface.opsets.get("ai.onnx"))
    fixed = [
        str(tensor)
        for tensor in interface.inputs
        if all(isinstance(dim, int) for dim in tensor.dims)
    ]
    parts = [f"{interface.nodes} nodes, {interface.weight_bytes / 1e6:.1f} MB of weights"]
    if opset is not None:
        parts.append(f"opset {opset}")
    if interface.external:
        parts.append(f"weights in {', '.join(interface.external)}")
    text = ", ".join(parts)
    return f"{text}; fixed: {', '.join(fixed)}" if fixed else text


def _variants(interface: ModelInterface, no_fp16: str | None) -> list[str]:
    low = next((each for each in _LOW if each in interface.features), None)
    if low is not None:
        return [
            *comment(f"The model is {low} already, and is built with the types that it has."),
            "variants:",
            "  source: {precision: source}",
        ]
    fp16 = "  fp16: {precision: fp16}"
    lines = ["variants:", "  fp32: {precision: fp32}"]
    if no_fp16 is None:
        lines += [
            fp16,
            *comment("nodes that must stay FP32: keep_fp32: [/head/*, 'type:Softmax']", 4),
        ]
    else:
        lines += [*comment(no_fp16, 2), f"  # {fp16.strip()}"]
    lines += [
        *comment("INT8 needs samples of what you send, an array for each input:", 2),
        "  # int8: {precision: int8, high_precision: fp16, calibration: {data: samples.npz}}",
        "",
        *comment(
            "Is a converted model as good as this one? `engineforge check --accuracy` says so:"
        ),
        "# checks:",
        "#   accuracy: {data: holdout.npz, max_relative_error: 0.02}",
    ]
    return lines
