"""A project of very many variants that are up to date, without building one: its specs, models,
plans and entries are real, written by the code that always writes them; the engines in them are a
few bytes that no GPU would run, and nothing is fsynced."""

from __future__ import annotations

import argparse
import os
import shutil
import time
from pathlib import Path

from engineforge.digest import document
from engineforge.project.plans import PlannedVariant, Selection
from engineforge.project.project import Project
from engineforge.store.local import LocalStore, Session
from engineforge.store.manifest import PlanRecord
from engineforge.store.trust import whole
from tests.models import convnet

TARGETS = """\
ada: {backend: tensorrt_rtx, version: 1.7.1.116, compute_capabilities: [8.9]}
ampere: {backend: tensorrt_rtx, version: 1.7.1.116, compute_capabilities: [8.0, 8.6]}
"""
_SPEC = """\
model:
  source: {{path: {model}}}
inputs:
  image: {{min: [1, 3, 16, 16], opt: [4, 3, 16, 16], max: [8, 3, 16, 16]}}
targets: [{targets}]
variants:
{variants}
"""
_RANGE = "{{min: [1, 3, 16, 16], opt: [4, 3, 16, 16], max: [{most}, 3, 16, 16]}}"
_VARIANT = f"  b{{most}}: {{{{inputs: {{{{image: {_RANGE}}}}}}}}}"
_MARK = b"which of so many"
FILES = ("model.engine", "build.log", "manifest.json")
"""Those of an entry, beside the plan record."""


def spec_text(model: str, variants: int) -> str:
    """A spec of so many variants: 1, or an even number, for two targets."""
    lines = [_VARIANT.format(most=8 + each) for each in range(max(1, variants // 2))]
    targets = "ada, ampere" if variants > 1 else "ada"
    return _SPEC.format(model=model, targets=targets, variants="\n".join(lines))


def make(folder: Path, count: int, each: int) -> None:
    """A project in `folder` of `count` variants, `each` in a spec with a model of its own."""
    specs = folder / "specs"
    (specs / "models").mkdir(parents=True)
    (specs / "targets.yaml").write_text(TARGETS)
    model = convnet(folder / "model.onnx", producer=_MARK.decode(), channels=1).read_bytes()
    for number in range(count // each):
        name = f"net-{number:06}"
        (specs / "models" / f"{name}.onnx").write_bytes(_with(model, number))
        (specs / f"{name}.yaml").write_text(spec_text(f"models/{name}.onnx", each))
    _publish(folder)


def _with(model: bytes, number: int) -> bytes:
    """Another model, as long: its producer is called so."""
    return model.replace(_MARK, f"model {number:010}".encode())


def _publish(folder: Path) -> None:
    os.fsync = _not_synced
    with Project(folder / "specs", folder / "cache", os.environ) as project:
        project.store.create()
        plan = project.plan([folder / "specs"], Selection())
        if plan.problems:
            raise SystemExit("\n".join(map(str, plan.problems[:5])))
        with project.store.session() as session:
            stale = [variant for variant in plan.variants if variant.engine is None]
            made = [_built(project.store, session, each) for each in stale]
        time.sleep(0.1)  # what is younger than a tick is not remembered
        for planned, record in made:
            engine = record.entries["engine"]
            if whole(project.store, project.index, "engine", engine) is None:
                raise SystemExit(f"no engine of {planned.label}")
            project.index.know_engine_of(record.key.hex, engine.hex)
            project.index.know_history(planned.label, record.key.hex, 1.0)


def _not_synced(fd: object) -> None:
    """A power cut may have it all."""


def _built(
    store: LocalStore, session: Session, planned: PlannedVariant
) -> tuple[PlannedVariant, PlanRecord]:
    """A variant as a worker leaves it; of its stages only the last has an entry."""
    job = planned.job
    if job is None:
        raise SystemExit(f"no job for {planned.label}")
    model = next(iter(job.source))
    key = document(job.key.engine_key(job.source[model][0], job.key.external))
    with session.staged() as staged:
        (staged / FILES[0]).write_bytes(f"no engine, but of {planned.label}".encode() * 8)
        (staged / FILES[1]).write_bytes(b"nothing was built\n")
        record = {"spec": planned.spec, "variant": planned.variant, "target": planned.target}
        entry, _ = store.publish(
            staged,
            stage="engine",
            key_document=key,
            digests={},
            record={**record, "seconds": 1.0},
        )
    kept = PlanRecord(
        key=job.key.digest(),
        key_document=document(job.key),
        entries={"engine": entry.manifest.key},
    )
    store.put_record(kept, session.folder)
    return planned, kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--each", type=int, default=1, help="variants of a spec")
    args = parser.parse_args()
    shutil.rmtree(args.folder, ignore_errors=True)
    args.folder.mkdir(parents=True)
    make(args.folder, args.count, args.each)


if __name__ == "__main__":
    main()
