"""What an exporter left, as it is kept: without what no engine depends on (paths, versions), its
weights in one file beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from engineforge.stages.sources import MODEL, WEIGHTS
from engineforge.stages.sources.onnx import Reference, canonicalize
from engineforge.stages.sources.skeleton import IN_FILE

_ALIGNED = 64
_BLOCK = 1 << 20


def keep(model: Path, out: Path) -> None:
    """Write `out/model.onnx`, and `out/model.onnx.data` where it has large tensors, in the order
    of the graph: equal graphs give equal bytes. ModelError where there is no sound model."""

    def locate(references: Sequence[Reference]) -> Iterator[dict[str, str]]:
        if not references:
            return
        with (out / WEIGHTS).open("xb") as data:
            for each in references:
                data.write(b"\0" * (-data.tell() % _ALIGNED))
                offset = data.tell()
                _copy(
                    model if each.location == IN_FILE else model.parent / each.location, each, data
                )
                length = str(each.length)
                yield {"location": WEIGHTS, "offset": str(offset), "length": length}

    data, _ = canonicalize(model, locate)
    (out / MODEL).write_bytes(data)


def _copy(source: Path, reference: Reference, data: BinaryIO) -> None:
    with source.open("rb") as file:
        file.seek(reference.offset)
        left = reference.length
        while left and (block := file.read(min(left, _BLOCK))):
            data.write(block)
            left -= len(block)
