"""What a quantizing tool is asked for, and how it is given samples: the same for every tool."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

Feeds = Callable[[], Iterator[Mapping[str, "NDArray[Any]"]]]
"""A fresh stream each time it is called; an item is one run of the model, every input by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """`to` is int8, fp8 or int4. `keep` are the names of nodes that are neither quantized nor
    lowered; `high_precision` (fp32, fp16, bf16) is the type around quantized layers. `percentile`
    belongs to the method of that name, `block_size` to int4: weights that share one scale."""

    to: str
    keep: tuple[str, ...] = ()
    method: str
    percentile: float | None = None
    block_size: int | None = None
    high_precision: str = "fp32"
    keep_io_types: bool = True
