"""Engines of classic TensorRT, with the manifests that builds of them write: recipes are made by
the planner's own functions, records as `worker/building.py` puts them together."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engineforge.backends.options import resolve
from engineforge.digest import digest_bytes, digest_value, document
from engineforge.plan.keys import EngineKey, recipe
from engineforge.promotion.triton.engines import Exported
from engineforge.spec.model import InputRange, Precision, Profile, ShapeRange, Variant
from engineforge.store.local import ENGINE
from engineforge.store.manifest import Manifest, StoredFile
from tests.backends.test_options import target as target_of

Dims = Sequence[int | str]
VERSION = {"tensorrt": "10.13.3.9", "tensorrt_rtx": "1.7.1.116"}


def tensor(
    name: str, dims: Dims, dtype: str = "FLOAT", *, shape_tensor: bool = False
) -> dict[str, Any]:
    """As `backends.network.tensors` tells of one: a dimension that changes has a name, or is -1."""
    return {
        "name": name,
        "dtype": dtype,
        "dims": [each if isinstance(each, int) else -1 for each in dims],
        "dimensions": [each if isinstance(each, str) else None for each in dims],
        "shape_tensor": shape_tensor,
    }


def ranges(low: Sequence[int], high: Sequence[int]) -> InputRange:
    return InputRange(shape=ShapeRange(min=tuple(low), opt=tuple(high), max=tuple(high)))


IMAGE = tensor("image", ["batch", 3, 16, 16])
LOGITS = tensor("logits", [-1, 10])
UP_TO_8: Profile = {"image": ranges((1, 3, 16, 16), (8, 3, 16, 16))}


def engine(
    folder: Path,
    *,
    target: str = "h200",
    gpu: str = "9.0",
    backend: str = "tensorrt",
    variant: str = "fp16",
    builder: Mapping[str, object] | None = None,
    profiles: Sequence[Profile] = (UP_TO_8,),
    inputs: Sequence[Mapping[str, Any]] = (IMAGE,),
    outputs: Sequence[Mapping[str, Any]] = (LOGITS,),
    interface: bool = True,
    bytes_: bytes | None = None,
) -> Exported:
    """An engine, in a file of its own, for one GPU of that compute capability."""
    where = target_of(backend, VERSION[backend])
    if where.gpu is not None:
        where = dataclasses.replace(
            where, name=target, gpu=dataclasses.replace(where.gpu, compute_capability=gpu)
        )
    else:
        where = dataclasses.replace(where, name=target, compute_capabilities=tuple(gpu.split()))
    asked = Variant(
        spec="ocr",
        name=variant,
        precision=Precision(name="fp16"),
        profiles=tuple(profiles),
        builder=builder or {},
        target=where,
    )
    key = EngineKey(
        model=digest_bytes(b"model"),
        external=(),
        recipe=recipe(asked, resolve(asked.builder, where)),
    )
    data = bytes_ if bytes_ is not None else f"engine of {target}".encode() * 100
    told = {"inputs": list(inputs), "outputs": list(outputs)}
    manifest = Manifest(
        stage="engine",
        key=digest_value(key),
        key_document=document(key),
        files={ENGINE: StoredFile(len(data), digest_bytes(data))},
        record={"target": target, **({"interface": told} if interface else {})},
    )
    file = folder / f"{target}-{digest_bytes(data).hex[:8]}.engine"
    file.write_bytes(data)
    return Exported(
        spec="ocr",
        variant=variant,
        target=target,
        digest=digest_bytes(manifest.to_bytes()),
        manifest=Manifest.from_bytes(manifest.to_bytes()),
        file=file,
    )
