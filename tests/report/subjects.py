"""Engines to compare, made by hand: no file is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engineforge.digest import digest_value
from engineforge.project.subjects import Subject
from engineforge.store.local import ENGINE
from engineforge.store.manifest import Manifest, StoredFile


def layer(name: str, **more: object) -> dict[str, Any]:
    return {"name": name, "type": "Convolution", "output_types": ["float16"], **more}


def subject(
    name: str = "net/fp16@h200",
    *,
    size: int = 1000,
    layers: Sequence[Mapping[str, Any]] | None = None,
    profile: Sequence[Mapping[str, Any]] | None = None,
    latency: Mapping[str, Any] | None = None,
    accuracy: Mapping[str, Any] | None = None,
    precision: str = "fp16",
    **recipe: object,
) -> Subject:
    key = {"model": digest_value("model"), "recipe": {"builder": {"tf32": True, **recipe}}}
    return Subject(
        name=name,
        manifest=Manifest(
            stage="engine",
            key=digest_value(key),
            key_document=key,
            files={ENGINE: StoredFile(size, digest_value([name, size]))},
            record={"finished": "2026-10-01T03:00:00+00:00", "precision": precision},
        ),
        layers=layers,
        no_layers=None if layers is not None else "nothing has looked inside",
        profile=profile,
        latency=latency,
        accuracy=accuracy,
    )


def measured(median: float, gpu: str = "NVIDIA H200") -> dict[str, Any]:
    return {
        "latency_ms": {"median": median, "p99": median * 1.5},
        "gpu": {"name": gpu, "end": {"throttled_by": ["sw_power_cap"]}},
    }


def close(error: float) -> dict[str, Any]:
    return {"samples": 8, "outputs": {"y": {"relative_error": error}}}
