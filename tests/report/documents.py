"""Reports made by hand, in the form of report/page/document.py: small ones, and large ones."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

_BEGAN = datetime(2026, 10, 1, 3, tzinfo=timezone.utc)
_PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")
# How far each is from the source, and how much faster, about.
_ERROR = {"fp32": 2e-6, "fp16": 8e-4, "bf16": 6e-3, "int8": 2.5e-2, "fp8": 1.8e-2}
_SPEED = {"fp32": 1.0, "fp16": 0.55, "bf16": 0.56, "int8": 0.38, "fp8": 0.4}
_MODELS = (
    *("ocr/detector", "ocr/recognizer", "ocr/angle", "search/encoder", "search/reranker"),
    *("vision/resnet50", "vision/segmenter", "speech/vad", "speech/encoder", "ads/ranker"),
)
_TARGETS = {"h200": 1.0, "l4": 3.4, "rtx-ada": 1.9, "orin": 7.5}


def digest(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()}"


def variant(label: str, /, **more: Any) -> dict[str, Any]:  # noqa: ANN401
    """A variant that is up to date and of which nothing else is known, but for `more`."""
    spec, _, rest = label.rpartition("/")
    name, _, target = rest.partition("@")
    return {
        "spec": spec,
        "variant": name,
        "target": target,
        "label": label,
        "plan": digest(f"plan {label}"),
        "state": "up-to-date",
        "why": [],
        "precision": "fp32",
        "toolchain": "tensorrt 10.13.3.9 (CUDA 12.9)",
        "last": last(label),
        "history": [],
        "accuracy": {"asked": False, "model": None, "engine": None},
        "latency": None,
        "environments": {},
        "failure": None,
        **more,
    }


def last(label: str, /, **more: Any) -> dict[str, Any]:  # noqa: ANN401
    return {
        "engine": digest(f"engine {label}"),
        "sha256": digest(f"file {label}"),
        "size": 1 << 20,
        "finished": "2026-10-01T03:00:00+00:00",
        "seconds": 12.5,
        "build_seconds": 11.0,
        "host": "builder-1",
        "git": "0123456789abcdef0123456789abcdef01234567",
        "gpu": "NVIDIA H200",
        "timing_cache": {"state": "cold"},
        "warnings": [],
        **more,
    }


def checked(error: float, *failures: str, gpu: str | None = None) -> dict[str, Any]:
    return {
        "entry": digest(f"check {error}"),
        "finished": "2026-10-01T03:10:00+00:00",
        "gpu": gpu,
        "samples": 256,
        "outputs": {"logits": {"relative_error": error, "sqnr_db": 40.0, "cosine": 0.9999}},
        "passed": not failures,
        "failures": list(failures),
    }


def timed(ms: float, *failures: str) -> dict[str, Any]:
    return {
        "entry": digest(f"latency {ms}"),
        "finished": "2026-10-01T03:20:00+00:00",
        "gpu": "NVIDIA H200",
        "driver": "580.95.05",
        "shapes": {"image": [8, 3, 224, 224]},
        "median_ms": ms,
        "p99_ms": round(ms * 1.07, 5),
        "throughput_qps": round(1000 / ms, 2),
        "held_down_by": [],
        "passed": not failures,
        "failures": list(failures),
    }


def serving(
    number: int = 3, *, fresh: bool | None = True, why: str | None = None
) -> dict[str, Any]:
    return {
        "number": number,
        "engine": digest(f"served {number}"),
        "key": digest(f"served key {number}"),
        "since": "2026-09-20T03:00:00Z",
        "fresh": fresh,
        "why": why,
        "overridden": [],
    }


def failure(stage: str = "engine", error: str = "no tactic", *log: str) -> dict[str, Any]:
    return {
        "time": "2026-10-01T03:05:00Z",
        "outcome": "failed",
        "stage": stage,
        "error": error,
        "log": list(log),
    }


def report(variants: Sequence[dict[str, Any]], **more: Any) -> dict[str, Any]:  # noqa: ANN401
    return {
        "format": 1,
        "kind": "engineforge-report",
        "time": "2026-10-01T04:00:00+00:00",
        "project": "vision-team",
        "version": "0.1.0",
        "git": "0123456789abcdef0123456789abcdef01234567",
        "variants": list(variants),
        "environments": None,
        "builds": [],
        "timing_caches": [],
        "promotions": [],
        "log": None,
        "problems": [],
        "notes": [],
        **more,
    }


def build(label: str, *, days_ago: int = 0, seconds: float = 60.0, why: str = "") -> dict[str, Any]:
    return {
        "label": label,
        "finished": (_BEGAN - timedelta(days=days_ago)).isoformat(),
        "engine": digest(f"{label} {days_ago}"),
        "seconds": seconds,
        "size": 1 << 20,
        "first": not why,
        "changes": [{"leaf": "model", "before": "a", "after": "b"}] if why else [],
        "why": why,
        "timing_cache": "from the shared one" if why else "cold",
    }


def large(count: int) -> dict[str, Any]:
    """Some models on four targets with five precisions, of every status, with all that can be
    known of them; always the same."""
    random_ = random.Random(7)
    variants = []
    builds = []
    for at in range(count):
        model, rest = divmod(at, len(_TARGETS) * len(_PRECISIONS))
        target, precision = divmod(rest, len(_PRECISIONS))
        name = list(_TARGETS)[target]
        of = _MODELS[model % len(_MODELS)] + (f"-{model}" if model >= len(_MODELS) else "")
        label = f"{of}/{_PRECISIONS[precision]}@{name}"
        variants.append(_whole(label, _PRECISIONS[precision], name, random_))
        for day in range(3):
            if random_.random() < 0.5:
                why = "" if day == 2 else "model 'models/net.onnx' changed (5a41be12 → 9b1f04aa)"
                ago = random_.randrange(28)
                builds.append(build(label, days_ago=ago, seconds=random_.uniform(5, 400), why=why))
    builds.sort(key=lambda each: (each["finished"], each["label"]), reverse=True)
    return report(
        variants,
        environments=[
            {"name": "dev", "from": None, "unreachable": None, "faults": {}},
            {"name": "staging", "from": "dev", "unreachable": None, "faults": {}},
            {
                "name": "production",
                "from": "staging",
                "unreachable": "the registry 'registry.example.com' does not answer",
                "faults": {},
            },
        ],
        builds=builds,
        timing_caches=[
            {
                "label": each["label"],
                "cold_builds": 1,
                "cold_seconds": 240.0,
                "warm_builds": 3,
                "warm_seconds": 75.5,
                "times_as_fast": 3.179,
                "tactics_timed_cold": 4210,
                "tactics_timed_warm": 12,
            }
            for each in variants[:: max(count // 8, 1)]
        ],
        promotions=[
            {
                "environment": "staging" if at % 2 else "dev",
                "spec": _MODELS[at % len(_MODELS)],
                "number": 40 - at,
                "action": "rollback" if at == 3 else "promote",
                "time": f"2026-09-{30 - at % 20:02}T03:30:00Z",
                "by": "ci",
                "signed_by": ["ci"],
                "reason": "p99 went up in production" if at == 3 else "",
                "from": "dev" if at % 2 else None,
                "changed": ["fp16@h200", "int8@h200"],
                "dropped": [],
                "overridden": ["latency"] if at == 5 else [],
            }
            for at in range(min(count, 24))
        ],
        log={"events": count, "cut": False},
    )


def _whole(label: str, precision: str, target: str, random_: random.Random) -> dict[str, Any]:
    spec = label.rpartition("/")[0]
    base = 0.3 + int(digest(spec)[7:11], 16) / 65536 * 6
    ms = base * _TARGETS[target] * _SPEED[precision] * random_.uniform(0.85, 1.25)
    error = _ERROR[precision] * random_.uniform(0.6, 1.8)
    size = int(base * 40e6 * (1 if precision == "fp32" else 0.5) * random_.uniform(0.9, 1.1))
    fate = random_.random()
    more: dict[str, Any] = {
        "precision": precision,
        "last": last(label, size=size, seconds=round(base * random_.uniform(20, 90), 1)),
        "history": [
            {
                "finished": f"2026-09-{day:02}T03:00:00+00:00",
                "seconds": round(base * random_.uniform(20, 90), 1),
                "size": size,
            }
            for day in (3, 11, 17, 24, 29)
        ],
        "accuracy": {"asked": True, "model": checked(error), "engine": None},
        "latency": timed(round(ms, 5)) if target != "orin" else None,
        "environments": {"dev": serving(7), "staging": serving(5)},
    }
    if target == "h200":
        more["accuracy"]["engine"] = checked(error * 1.1, gpu="NVIDIA H200")
    if fate < 0.01:
        log = [f"[W] tactic {n} was skipped: no workspace" for n in range(18)]
        told = "TensorRT says: no implementation for node {ForeignNode[/head/Gemm]}"
        more |= {"state": "stale", "failure": failure("engine", told, *log, f"[E] {told}")}
        more["why"] = ["model 'models/net.onnx' changed (5a41be12 → 9b1f04aa)"]
    elif fate < 0.03:
        more["latency"] = timed(round(ms * 3, 5), f"p99 is {ms * 3:.3g} ms, expected at most 5 ms")
    elif fate < 0.12:
        why = "model 'models/net.onnx' changed (5a41be12d1c0 → 9b1f04aa77e2)"
        more |= {"state": "stale", "why": [why], "stages": ["onnx", "typed", "engine"]}
        more["environments"]["staging"] = serving(5, fresh=False, why=why)
        more["latency"] = None
        more["accuracy"]["engine"] = None
    elif fate < 0.2:
        more |= {
            "state": "unfit",
            "why": ["never built here"],
            "unfit": "the target is a 'NVIDIA Orin', and this host has 'NVIDIA H200'",
            "last": None,
            "history": [],
            "latency": None,
            "environments": {},
        }
        more["accuracy"]["engine"] = None
    return variant(label, **more)
