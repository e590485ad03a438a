"""A project for the GPU of this host: the specs' own models, and two as large as people build.

`python -m tests.gpu.project FOLDER` makes it. Converting takes ONNX Runtime, which may need another
Python than TensorRT does: `engineforge build FOLDER/specs --prepare` there, then build here.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tests.networks import bert_base, resnet50

SPECS = Path(__file__).resolve().parents[2] / "specs"
TARGET = "here"
LARGE = ("resnet50", "bert-base")

_PRECISIONS = ("fp32", "fp16", "int8")
# What a build for TensorRT 8 refuses in INT8, as its hint has it (see backends/misread.py).
_DEPTHWISE = [f"Conv@{i}" for i in (2, 13, 18, 23, 28, 33, 38, 43, 48)]
_LATENCY = {"latency": {"max_median_ms": 100}}


def make_project(folder: Path, target: Mapping[str, Any]) -> Path:
    """Write specs, models and samples into `folder`; gives the folder of the specs."""
    specs = folder / "specs"
    shutil.copytree(SPECS / "models", specs / "models")
    (specs / "samples").mkdir()
    for name in ("digits.py", "ocr.py"):
        shutil.copy(SPECS / name, specs)
    write_yaml(specs / "targets.yaml", {TARGET: dict(target)})
    around = {"high_precision": "fp32" if _is_8(target) else "fp16"}
    for path in sorted(SPECS.glob("*-*.yaml")):
        spec = _here(path.stem, yaml.safe_load(path.read_text()))
        write_yaml(specs / path.name, {**spec, **around})
    random = np.random.default_rng(0)
    images = random.standard_normal((16, 3, 224, 224), dtype=np.float32)
    ids = random.integers(0, 4096, (16, 128), dtype=np.int32)
    for name, make, array in (("resnet50", resnet50, images), ("bert-base", bert_base, ids)):
        make(specs / "models" / f"{name}.onnx")
        tensor = "ids" if name == "bert-base" else "image"
        arrays: dict[str, Any] = {tensor: array}
        np.savez(specs / "samples" / f"{name}.npz", **arrays)
        spec = _large(name, tensor, list(array.shape[1:]))
        write_yaml(specs / f"{name}.yaml", {**spec, **around})
    return specs


def _is_8(target: Mapping[str, Any]) -> bool:
    """Scales of quantized layers are FP32 there, and so is what is around them."""
    return str(target["version"]).startswith("8.")


def _here(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    """A spec of this repository for the GPU of this host, in the precisions that TensorRT 8 has."""
    variants = {
        name: {k: v for k, v in spec["variants"][name].items() if k != "targets"}
        for name in _PRECISIONS
    }
    # Results are compared with those of a CPU, which has no TF32.
    variants["fp32"]["builder"] = {"tf32": False}
    if name == "ocr-angle":
        variants["int8"]["keep_fp32"] = _DEPTHWISE
    # Convolutions of a thousand sizes are timed for minutes at the usual level.
    level = {"optimization_level": 1} if name.startswith("ocr-") else {}
    made = {**spec, "targets": [TARGET], "builder": level, "variants": variants}
    return {**made, "checks": {**spec["checks"], **_LATENCY}}


def _large(name: str, tensor: str, dims: list[int]) -> dict[str, Any]:
    data = f"samples/{name}.npz"
    return {
        "model": {"source": {"path": f"models/{name}.onnx"}},
        "inputs": {tensor: {"min": [1, *dims], "opt": [8, *dims], "max": [16, *dims]}},
        "targets": [TARGET],
        "calibration": {"data": data},
        "checks": {"accuracy": {"data": data, "max_relative_error": 0.1}, **_LATENCY},
        "variants": {
            "fp32": {"precision": "fp32", "builder": {"tf32": False}},
            "tf32": {"precision": "fp32", "builder": {"tf32": True}},
            "fp16": {"precision": "fp16"},
            "int8": {"precision": "int8"},
        },
    }


def write_yaml(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(value, sort_keys=False))


def detected() -> dict[str, Any]:
    """This host's target, with what layer information needs; cuBLAS and cuDNN are left out where
    they are not installed, by `ENGINEFORGE_GPU_BUILDER` as JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "engineforge", "target", "detect", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    found = [each for each in json.loads(done.stdout).values() if each["backend"] == "tensorrt"]
    builder = json.loads(os.environ.get("ENGINEFORGE_GPU_BUILDER", "{}"))
    return {**found[0], "builder": {"profiling_verbosity": "detailed", **builder}}


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("folder", type=Path)
    make_project(arguments.parse_args().folder, detected())
