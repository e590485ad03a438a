"""Builds with nothing to do of ninja, doit, Snakemake and DVC, for as many targets as a project of
EngineForge has variants, each of as many files: a spec and a model in, a plan record, an engine, a
log and a manifest out, under names as long.

Each is asked in the fastest way that it documents: doit keeps its records in the fastest of its
backends, Snakemake looks at times alone, and reads no records."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.built import FILES, spec_text

_NINJA_LOG = "# ninja log v7"
_DODO = """
DOIT_CONFIG = {"backend": "json"}
def task_build():
    for number, (inputs, outputs) in enumerate(TARGETS):
        yield {"name": str(number), "actions": [done], "file_dep": inputs, "targets": outputs}
def done():
    return True
TARGETS = [
    line.split("\\t") for line in open("targets.txt", encoding="ascii").read().splitlines()
]
TARGETS = [(inputs.split(" "), outputs.split(" ")) for inputs, outputs in TARGETS]
"""
_SNAKEFILE = """
LINES = [line.split("\\t") for line in open("targets.txt", encoding="ascii").read().splitlines()]
INPUTS = {outputs.split("/")[3]: inputs.split(" ") for inputs, outputs in LINES}
rule all:
    input: [outputs.split(" ")[1] for _, outputs in LINES]
rule build:
    input: lambda found: INPUTS[found.key]
    output:
        "out/plans/{two}/{key}/record.json",
        "out/engine/{two}/{key}/model.engine",
        "out/engine/{two}/{key}/build.log",
        "out/engine/{two}/{key}/manifest.json",
    shell: "true"
"""


@dataclass(frozen=True, slots=True)
class Other:
    """A tool in its folder: a command that finds nothing to do, and what it says then."""

    name: str
    folder: Path
    command: tuple[str, ...]
    says: str
    environment: dict[str, str]


def prepare(folder: Path, tools: Path, count: int, each: int, names: set[str]) -> list[Other]:
    """Make the targets, up to date, and have each tool know that."""
    folder.mkdir(parents=True)
    targets = list(_targets(count, each))
    _make_files(folder, targets, each)
    lines = [f"{' '.join(inputs)}\t{' '.join(outputs)}" for inputs, outputs in targets]
    (folder / "targets.txt").write_text("\n".join(lines), encoding="ascii")
    prepared = []
    environment = {**os.environ, "PATH": f"{tools / 'bin'}:{os.environ['PATH']}"}
    for name, make in (
        ("ninja", _ninja),
        ("doit", _doit),
        ("snakemake", _snakemake),
        ("dvc", _dvc),
    ):
        if name in names:
            command, says = make(folder, tools / "bin", targets)
            prepared.append(Other(name, folder, command, says, environment))
    return prepared


Target = tuple[list[str], list[str]]


def _targets(count: int, each: int) -> Iterator[Target]:
    for number in range(count):
        name = f"net-{number // each:06}"
        key = hashlib.sha256(str(number).encode()).hexdigest()
        outputs = [f"out/plans/{key[:2]}/{key}/record.json"]
        outputs += [f"out/engine/{key[:2]}/{key}/{file}" for file in FILES]
        yield [f"specs/{name}.yaml", f"specs/models/{name}.onnx"], outputs


def _make_files(folder: Path, targets: list[Target], each: int) -> None:
    (folder / "specs" / "models").mkdir(parents=True)
    for inputs, _ in targets[::each]:
        (folder / inputs[0]).write_text(spec_text(inputs[1], each))
        (folder / inputs[1]).write_bytes(inputs[1].encode() * 40)
    for _, outputs in targets:
        for output in outputs:
            path = folder / output
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(output.encode())


def _ninja(folder: Path, tools: Path, targets: list[Target]) -> tuple[tuple[str, ...], str]:
    lines = ["rule build", "  command = true"]
    lines += [f"build {' '.join(outputs)}: build {' '.join(inputs)}" for inputs, outputs in targets]
    (folder / "build.ninja").write_text("\n".join(lines) + "\n")
    ninja = str(tools / "ninja")
    # It is run for one, and what it writes to its log of that is written for all: the command has
    # one text, and with it one hash.
    first = targets[0][1][0]
    subprocess.run([ninja, first], cwd=folder, check=True, capture_output=True)
    head, line, *_ = (folder / ".ninja_log").read_text().splitlines()
    if head != _NINJA_LOG:
        raise SystemExit(f"a ninja whose log begins with '{head}' is not known here")
    start, end, mtime, _, command = line.split("\t")
    log = [head]
    for _, outputs in targets:
        log += ["\t".join((start, end, mtime, output, command)) for output in outputs]
    (folder / ".ninja_log").write_text("\n".join(log) + "\n")
    return (ninja,), "no work to do"


def _doit(folder: Path, tools: Path, targets: list[Target]) -> tuple[tuple[str, ...], str]:
    (folder / "dodo.py").write_text(_DODO)
    doit = str(tools / "doit")
    subprocess.run([doit], cwd=folder, check=True, capture_output=True)
    return (doit,), "-- build:0"


def _snakemake(folder: Path, tools: Path, targets: list[Target]) -> tuple[tuple[str, ...], str]:
    (folder / "Snakefile").write_text(_SNAKEFILE)
    snakemake = str(tools / "snakemake")
    words = ("-n", "--quiet", "rules", "-c", "1", "--rerun-triggers", "mtime")
    return (snakemake, *words), "Nothing to be done"


def _dvc(folder: Path, tools: Path, targets: list[Target]) -> tuple[tuple[str, ...], str]:
    stages = {
        f"build-{number}": {
            "cmd": "true",
            "deps": inputs,
            "outs": [{output: {"cache": False}} for output in outputs],
        }
        for number, (inputs, outputs) in enumerate(targets)
    }
    (folder / "dvc.yaml").write_text(json.dumps({"stages": stages}))  # JSON is YAML
    dvc = str(tools / "dvc")
    for words in (["init", "-q", "--no-scm"], ["config", "core.analytics", "false"]):
        subprocess.run([dvc, *words], cwd=folder, check=True, capture_output=True)
    subprocess.run([dvc, "commit", "-q", "-f"], cwd=folder, check=True, capture_output=True)
    return (dvc, "status"), "up to date"
