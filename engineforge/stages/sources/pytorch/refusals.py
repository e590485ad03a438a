"""What PyTorch's exporters cannot do, said so that people can do something about it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from engineforge.stages.sources import SourceFailed

_NO_FORM = (
    r"No ONNX function found for <OpOverload\(op='(.+?)'",
    r"Exporting the operator '(.+?)' to ONNX",
    r"(?:Unconvertible|Unsupported) ops?: \{?'?([\w:.]+)",
)
_STATIC = re.compile(r"inferred a static shape of (\d+) for dimension inputs\['(.+?)'\].*?(\d+)\]")


def bf16(what: str) -> SourceFailed:
    return SourceFailed(
        f"{what} bfloat16, of which PyTorch exports models that mix types",
        hint="export it as float32, and let a variant say precision: bf16",
    )


def check_tensors(tensors: Mapping[str, Any], called: str) -> None:
    import torch

    for name, tensor in tensors.items():
        if isinstance(tensor, torch.Tensor) and tensor.dtype == torch.bfloat16:
            raise bf16(f"'{called}': '{name}' is")


def explained(
    error: BaseException, called: str, line: Callable[[BaseException], str] = lambda _: ""
) -> SourceFailed:
    """What a person can do something about, out of what the exporter raised."""
    chain = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    texts = [str(each) for each in chain]
    for text, pattern in ((text, pattern) for text in texts for pattern in _NO_FORM):
        if found := re.search(pattern, text):
            return SourceFailed(
                f"{called}: the operator '{found[1]}' has no form in ONNX",
                hint="write it with other operators",
            )
    if found := next(filter(None, map(_STATIC.search, texts)), None):
        return SourceFailed(
            f"{called}: axis {found[3]} of input '{found[2]}' varies in the spec, and the model "
            f"works with {found[1]} alone",
            hint=UNFIX,
        )
    root = chain[-1]
    if isinstance(root, SourceFailed):
        return root
    where = next(filter(None, map(line, reversed(chain))), "")
    said = next(iter(str(root).strip().splitlines()), "")
    hint = None
    if "data-dependent" in said:
        hint = "a branch on what tensors hold: torch.where, or torch.cond"
    message = f"{called} failed{where}: {type(root).__name__}: {said}".rstrip(": ")
    return SourceFailed(message, hint=hint)


UNFIX = (
    "look for int(...) and Python numbers made of shapes in 'forward', or write that size for min, "
    "opt and max"
)
