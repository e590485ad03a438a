"""The models that are built to measure, and a project that has a spec for each of them."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import helper, numpy_helper

from tests.models import save
from tests.networks import graph_of, resnet50

CAPABILITIES = ("8.9", "8.0", "8.6", "12.0")
"""Those of the targets: a spec builds for the first, or with `-four` in its name for each."""

ENGINEFORGE = str(Path(sys.executable).parent / "engineforge")
_BARE = str(Path(__file__).with_name("bare.py"))
_RAPIDOCR = "models/PP-OCRv6_rec_small.onnx"
_WIDTH, _LAYERS = 4096, 16


@dataclass(frozen=True, slots=True)
class Subject:
    """A model with the bounds of its input, and how often to measure it."""

    name: str
    package: str
    path: str
    tensor: str
    bounds: tuple[Sequence[int], Sequence[int], Sequence[int]]
    rounds: int


def _images(size: int) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
    return ([1, 3, size, size], [8, 3, size, size], [32, 3, size, size])


_ROWS = ([1, _WIDTH], [8, _WIDTH], [32, _WIDTH])
SUBJECTS = (
    Subject("resnet50", "", "models/resnet50.onnx", "image", _images(224), 7),
    Subject(
        "ocr", "rapidocr", _RAPIDOCR, "x", ([1, 3, 48, 32], [6, 3, 48, 320], [16, 3, 48, 640]), 7
    ),
    Subject("mlp-1gb", "", "models/mlp.onnx", "x", _ROWS, 3),
    Subject("mlp-1gb-external", "", "models/mlp-external.onnx", "x", _ROWS, 3),
)
BY_NAME = {subject.name: subject for subject in SUBJECTS}


@dataclass(frozen=True, slots=True)
class Project:
    """A folder of specs; `scratch` is for caches and engines, each used once."""

    specs: Path
    scratch: Path

    def model(self, subject: Subject) -> Path:
        if not subject.package:
            return self.specs / subject.path
        found = subprocess.run(
            [sys.executable, "-c", f"import {subject.package} as p; print(p.__path__[0])"],
            capture_output=True,
            text=True,
            check=True,
        )
        return Path(found.stdout.strip()) / subject.path

    def bare(self, subject: Subject, engine: Path, capability: str, *options: str) -> list[str]:
        """The command that builds a subject without EngineForge."""
        shapes = json.dumps({subject.tensor: subject.bounds})
        model = str(self.model(subject))
        return [sys.executable, _BARE, model, shapes, capability, str(engine), *options]

    def forge(self, spec: str, cache: Path, *options: str) -> list[str]:
        """The command that builds a spec with EngineForge, from a cache that is not there yet."""
        return [
            ENGINEFORGE,
            "build",
            str(self.specs / f"{spec}.yaml"),
            "--cache",
            str(cache),
            *options,
        ]


@contextmanager
def project(names: Sequence[str], folder: str | None) -> Iterator[Project]:
    """A project below `folder` (or the default one for temporary files) with these subjects, under
    Git like a user's own."""
    with tempfile.TemporaryDirectory(dir=folder, prefix="engineforge-benchmark-") as made:
        specs = Path(made) / "specs"
        (specs / "models").mkdir(parents=True)
        scratch = Path(made) / "scratch"
        scratch.mkdir()
        (Path(made) / ".gitignore").write_text("scratch/\nspecs/models/\n")
        (specs / "targets.yaml").write_text("".join(map(_target, CAPABILITIES)))
        for name in names:
            _add(specs, BY_NAME[name])
        author = ["-c", "user.name=benchmark", "-c", "user.email=benchmark@localhost"]
        for words in (["init", "-q"], ["add", "."], [*author, "commit", "-qm", "specs"]):
            subprocess.run(["git", "-C", made, *words], check=True)
        yield Project(specs, scratch)


def _target(capability: str) -> str:
    return (
        f"{_target_name(capability)}:\n"
        "  backend: tensorrt_rtx\n"
        "  version: 1.7.1.116\n"
        f"  compute_capabilities: [{capability}]\n"
    )


def _target_name(capability: str) -> str:
    return "sm" + capability.replace(".", "")


def _add(specs: Path, subject: Subject) -> None:
    low, best, high = (list(dims) for dims in subject.bounds)
    package = f"package: {subject.package}, " if subject.package else ""
    for suffix, capabilities in (("", CAPABILITIES[:1]), ("-four", CAPABILITIES)):
        (specs / f"{subject.name}{suffix}.yaml").write_text(
            f"model:\n  source: {{{package}path: {subject.path}}}\n"
            f"inputs:\n  {subject.tensor}: {{min: {low}, opt: {best}, max: {high}}}\n"
            f"targets: [{', '.join(map(_target_name, capabilities))}]\n"
        )
    path = specs / subject.path
    match subject.name:
        case "resnet50":
            resnet50(path)
        case "mlp-1gb":
            _mlp(path, external=None)
        case "mlp-1gb-external":
            _mlp(path, external="mlp.weights")


def _mlp(path: Path, *, external: str | None) -> None:
    """16 times MatMul (4096 x 4096) and ReLU: 1 GiB of FP32 weights."""
    random = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    for i in range(_LAYERS):
        values = random.standard_normal((_WIDTH, _WIDTH), dtype=np.float32)
        weights.append(numpy_helper.from_array(values, f"w{i}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{i}"], [f"m{i}"], name=f"matmul{i}"))
        nodes.append(helper.make_node("Relu", [f"m{i}"], [f"y{i}"], name=f"relu{i}"))
        last = f"y{i}"
    ends = {"x": ("batch", _WIDTH), last: ("batch", _WIDTH)}
    save(graph_of(nodes, weights, ends), path, external=external)
