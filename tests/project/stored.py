"""Entries put into a store by hand, as builds and measurements on a GPU would leave them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from engineforge.checks import TIMING
from engineforge.digest import document
from engineforge.store.local import ENGINE, Entry, LocalStore
from engineforge.worker.latency import LATENCY, Asked
from tests.gpus import host_gpu


def put(
    store: LocalStore, stage: str, key: Mapping[str, Any], record: Mapping[str, Any], **files: str
) -> Entry:
    """An entry with these files; of their names `_` stands for a dot."""
    with store.session() as session, session.staged() as staged:
        for name, text in files.items():
            (staged / name.replace("_", ".")).write_text(text)
        entry, _ = store.publish(staged, stage=stage, key_document=key, digests={}, record=record)
    return entry


def put_build(store: LocalStore, label: str, finished: str, **more: Any) -> Entry:  # noqa: ANN401
    """An engine; `recipe` and `layers` of `more` are its own, the rest stands in its record."""
    spec, _, rest = label.rpartition("/")
    variant, _, target = rest.partition("@")
    recipe = {"builder": {"tf32": True, "plugins": None}, **more.pop("recipe", {})}
    layers = more.pop("layers", None)
    record = {"spec": spec, "variant": variant, "target": target, "finished": finished, **more}
    files = {} if layers is None else {"layers_json": json.dumps({"layers": layers})}
    key = {"model": f"made {finished}", "recipe": recipe}
    return put(store, "engine", key, record, model_engine=f"{label} {finished}", **files)


def put_latency(
    store: LocalStore,
    engine: Entry,
    median: float,
    *,
    number: int = 0,
    asked: Asked,
    **more: Any,  # noqa: ANN401
) -> Entry:
    written = document(asked.key(engine.manifest.key, host_gpu()))
    key = {
        "engine": engine.manifest.files[ENGINE].sha256,
        "measuring": TIMING,
        "point": written["point"],
        "settings": written["settings"],
        "number": number,
        "driver": "580.159.04",
    }
    measured = {
        "latency_ms": {"median": median, "p99": median * 2},
        "gpu": {"name": "NVIDIA H200"},
        "shapes": {"x": [2, 4]},
        **more,
    }
    record = {"finished": f"2026-10-01T03:00:0{number}+00:00"}
    return put(store, LATENCY, key, record, measured_json=json.dumps(measured))
