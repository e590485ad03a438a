"""From the text of a spec to planned variants: parsed, validated, checked against its model."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from engineforge.backends import host
from engineforge.backends.gpu import HostGpu
from engineforge.digest import Digest, digest_bytes, digest_value
from engineforge.digest import document as as_document
from engineforge.errors import EngineForgeError, Problem
from engineforge.plan.explain import Change, changes
from engineforge.plan.planner import Facts, SourceUnmade, Stale, decide
from engineforge.project.folder import TARGETS
from engineforge.project.jobs import Jobs, has_plugins
from engineforge.project.plans import Plan, PlannedVariant
from engineforge.project.remembered import model_files, remember
from engineforge.project.sources import Sources, declared
from engineforge.spec.load import Document, Place, load
from engineforge.spec.lock import Lock
from engineforge.spec.matrix import Spec, expand, parse_targets
from engineforge.spec.model import ModelInterface
from engineforge.spec.salvage import salvage
from engineforge.spec.sources import key_of
from engineforge.spec.validate import validate
from engineforge.stages.precision import tools
from engineforge.store.index import Index
from engineforge.store.local import LocalStore
from engineforge.store.manifest import Manifest
from engineforge.store.stats import stat_of
from engineforge.store.trust import whole
from engineforge.target import Target
from engineforge.worker.chain import planned
from engineforge.worker.importer import Importer
from engineforge.worker.job import Files, Job, SourceJob
from engineforge.worker.obtaining import PREPARED, SOURCE
from engineforge.worker.outcome import Outcome
from engineforge.worker.spare import Spare
from engineforge.worker.wire import read_interface


class Reader:
    """Reads the specs of one folder; its targets once. Counts the texts that it parsed.

    `lock` pins what specs name elsewhere, and is `locked` by content; `settled` is what became of
    making the models of specs by name. `gpus` gives the GPUs of this host that `shown` (what
    `CUDA_VISIBLE_DEVICES` says) leaves.
    """

    def __init__(
        self,
        root: Path,
        store: LocalStore,
        index: Index,
        *,
        importer: Importer,
        spare: Spare | None,
        gpus: Callable[[], Sequence[HostGpu]],
        shown: str,
        versions: Mapping[str, str],
        checks: bool,
        data_may_miss: bool,
        lock: Lock,
        locked: tuple[Digest, ...],
        settled: Mapping[str, Outcome],
    ) -> None:
        self._gpus, self._shown = gpus, shown
        self._root, self._store, self._index = root, store, index
        self._importer, self._spare, self._versions = importer, spare, versions
        self._checks, self._data_may_miss = checks, data_may_miss
        self._settled = settled
        self._sources = Sources(
            store=store,
            index=index,
            lock=lock,
            locked=locked,
            inspected=lambda path: self._inspected(path)[0],
        )
        self._targets: dict[str, Target] | None = None
        self._targets_text: Digest | None = None
        self._gpus_unreadable = False
        self._fitness: dict[tuple[str, object], str | None] = {}
        self.target_problems: list[Problem] = []
        self.parsed = 0

    def targets(self) -> dict[str, Target]:
        """The targets by name; what is wrong with them is in `target_problems`."""
        if self._targets is None:
            targets: dict[str, Target] = {}
            document, self._targets_text = self._document(
                self._root / TARGETS, "targets", self.target_problems
            )
            if document is not None:
                targets, found = parse_targets(document)
                self.target_problems += found
            self._targets = {name: self._versioned(each) for name, each in targets.items()}
        return self._targets

    def _versioned(self, target: Target) -> Target:
        chain = target.toolchain
        version = self._versions.get(chain.backend, chain.version)
        return replace(target, toolchain=replace(chain, version=version))

    def read(self, file: Path, name: str, plan: Plan) -> list[PlannedVariant]:
        """The planned variants of a spec; none where it has problems, which `plan` is given."""
        problems: list[Problem] = []
        document, text = self._document(file, "spec", problems)
        targets = self.targets()
        if document is None or self.target_problems:
            plan.problems += problems
            return []
        spec, more = expand(name, document, targets, str(self._root / TARGETS))
        problems += more
        at_source = Place(document, ("model", "source", key_of(spec.model.source)))
        profiles = [profile for cell in spec.cells for profile in cell.variant.profiles]
        try:
            found = self._sources.find(name, spec.model, file.parent, profiles)
            if isinstance(found, SourceJob):
                plan.problems += dict.fromkeys(problems)
                return [] if problems else self._unmade(spec, found, plan)
            self._start_spare(spec)
            if found.network is not None:
                hashed, interface = found.files, declared(found.network, profiles)
                problems += _of_networks(spec)
            else:
                hashed, interface = self._inspected(found.model)
        except EngineForgeError as error:
            plan.problems += [*problems, at_source.problem(error.args[0], error.hint)]
            return []
        except OSError as error:
            message = f"'{error.filename}' cannot be read: {error.strerror}"
            plan.problems += [*problems, at_source.problem(message)]
            return []
        made = Jobs(
            index=self._index,
            importer=self._importer,
            found=found,
            hashed=hashed,
            interface=interface,
            folder=file.parent,
            checks=self._checks,
            data_may_miss=self._data_may_miss,
        )
        jobs = [job for cell in spec.cells if (job := made.add(cell)) is not None]
        problems += made.problems
        if problems:
            plan.problems += dict.fromkeys(problems)
            return []
        plan.notes += dict.fromkeys([*_notes(spec, interface), *made.notes])
        variants = [self._planned(job) for job in jobs]
        # What is remembered knows of no plugin library's digest.
        plugins = any(map(has_plugins, spec.cells))
        asked_for = not self._versions and not plugins and not self._gpus_unreadable
        if asked_for and text and self._targets_text:
            remember(
                self._index,
                name=name,
                spec=text,
                targets=self._targets_text,
                source=spec.model.source,
                model=found.depends or [digest for digest, _ in hashed.values()],
                samples=dict.fromkeys(
                    job.variant.precision.calibration.data
                    for job in jobs
                    if job.variant.precision.calibration is not None
                ),
                folder=file.parent,
                variants=variants,
                shown=self._shown,
            )
        return variants

    def _unmade(self, spec: Spec, job: SourceJob, plan: Plan) -> list[PlannedVariant]:
        """The variants of a spec whose model is not made yet: nothing more is known of them."""
        settled = self._settled.get(spec.name)
        if settled is None:
            plan.unmade[spec.name] = job
        stages = () if job.is_only_prepared else (SOURCE,)
        if job.prepare is not None:
            stages = (*stages, PREPARED)
        variants = []
        for cell in spec.cells:
            variant = cell.variant
            typed = ("typed",) if variant.precision.converts else ()
            reason = SourceUnmade(
                job.called, job.first, tuple(self._source_changes(variant.label, job))
            )
            variants.append(
                PlannedVariant(
                    spec=variant.spec,
                    variant=variant.name,
                    target=variant.target.name,
                    plan=None,
                    state=Stale((reason,), (*stages, "onnx", *typed, "engine")),
                    settled=settled,
                )
            )
        return variants

    def _source_changes(self, label: str, job: SourceJob) -> Iterator[Change]:
        """How a source differs from what the variant was last made of."""
        history = self._index.history(label)
        last = self._store.plan_record(Digest(f"sha256:{history.plan}")) if history else None
        before = (
            self._store.get(SOURCE, last.entries[SOURCE])
            if last and SOURCE in last.entries
            else None
        )
        if before is not None and job.key is not None:
            names = {f"files[{i}]": f"'{path.name}'" for i, path in enumerate(job.files)}
            yield from changes(before.manifest.key_document, as_document(job.key), names)

    def _start_spare(self, spec: Spec) -> None:
        """This process is about to wait, and has a processor to spare for TensorRT to load."""
        targets = [cell.variant.target for cell in spec.cells]
        # A build on a GPU is told its own when it has a lease, and takes minutes anyway.
        fit = next(
            (each for each in targets if each.gpu is None and not self._why_not(each, {})), None
        )
        if self._spare is not None and fit is not None:
            self._spare.start(fit.toolchain.backend)

    def _document(
        self, file: Path, kind: str, problems: list[Problem]
    ) -> tuple[Document | None, Digest | None]:
        """A file's text as values that fit the schema, its digest, and its problems added. Where
        there are some, the values are what is left without them, to find the others; or None if
        that is too little."""
        try:
            data = file.read_bytes()
        except OSError as error:
            problems.append(Problem(file=str(file), message=f"cannot be read: {error.strerror}"))
            return None, None
        self.parsed += 1
        document, found = load(str(file), data)
        if document is not None:
            said = {problem.path for problem in found}
            found += [each for each in validate(kind, document) if each.path not in said]
        problems += found
        left = salvage(kind, document) if document is not None and found else document
        return left, digest_bytes(data)

    def _inspected(self, model: Path) -> tuple[Files, ModelInterface]:
        """All files of a model, hashed, and its interface: remembered, or looked at now."""
        stat = stat_of(model)
        with ThreadPoolExecutor(1) as beside:
            asked = None
            if not self._index.knows(model):
                # Hashed here while the importer looks at it: most likely it is new.
                asked = beside.submit(self._inspect, model)
            hashed, interface = model_files(self._index, model)
            if interface is None or not self._index.is_inspected(_together(hashed)):
                interface = asked.result() if asked else self._inspect(model)
                if not stat == hashed[model][1] == stat_of(model):
                    raise EngineForgeError(f"'{model.name}' changes while it is read")
                self._index.know_model(hashed[model][0], interface)
                hashed, _ = model_files(self._index, model)
                # That the external data is as long as the model says holds for these very files.
                self._index.know_inspected(_together(hashed))
        return hashed, read_interface(json.loads(interface))

    def _inspect(self, model: Path) -> bytes:
        return json.dumps(self._importer.ask({"op": "inspect", "model": model})).encode()

    def _planned(self, job: Job) -> PlannedVariant:
        variant = job.variant
        history = self._index.history(variant.label)
        facts = self._facts(job, history.plan if history else None)
        # A plan for another version is not about this host.
        unfit = None if self._versions else self._unfit(job, facts)
        if variant.target.gpu is not None and unfit is None and not self._versions:
            found = host.matching(variant.target, self._gpus(), job.builder)
            job = replace(job, gpus=tuple(found))
        return PlannedVariant(
            spec=variant.spec,
            variant=variant.name,
            target=variant.target.name,
            plan=job.key.digest(),
            state=decide(job.key, facts),
            unfit=unfit,
            seconds=statistics.median(history.seconds) if history and history.seconds else None,
            job=job,
        )

    def _unfit(self, job: Job, facts: Facts) -> str | None:
        """Why this host cannot carry a job out; a model that is converted already needs no tool."""
        try:
            why = self._why_not(job.variant.target, job.builder)
        except EngineForgeError as error:  # a GPU that cannot be read now may be the next time
            self._gpus_unreadable = True
            return str(error)
        if why is None and "typed" in facts.missing and job.key.typed and job.key.typed.tool:
            why = tools.missing(job.key.typed.tool)
        return why

    def _why_not(self, target: Target, builder: Mapping[str, object]) -> str | None:
        """As `host.why_not`, which looks at installed packages: asked once for what decides it."""
        decides = (target.name, builder.get("hardware_compatibility"))
        if decides not in self._fitness:
            self._fitness[decides] = host.why_not(target, self._gpus, builder)
        return self._fitness[decides]

    def _facts(self, job: Job, last: str | None) -> Facts:
        plan = job.key.digest()
        record = self._store.plan_record(plan)
        engine = record.entries.get("engine") if record else None
        there = engine is not None and whole(self._store, self._index, "engine", engine)
        if engine is not None and there:
            self._index.know_engine_of(plan.hex, engine.hex)
            self._index.know_history(job.variant.label, plan.hex, None)
        before = self._store.plan_record(Digest(f"sha256:{last}")) if last else None
        return Facts(
            engine=engine,
            engine_there=bool(there),
            missing=tuple(self._missing(job)),
            last=before.key_document if before else None,
            names=names_of(job),
        )

    def _missing(self, job: Job) -> Iterator[str]:
        """The stages before the engine's whose entries are not there."""

        def manifest_of(stage: str, key: Digest) -> Manifest | None:
            entry = whole(self._store, self._index, stage, key)
            return None if entry is None else entry.manifest

        *_, last = planned(job, manifest_of)
        if last.stage not in ("typed", "engine"):
            yield "onnx"
        if last.stage == "typed" or (last.stage != "engine" and job.key.typed is not None):
            yield "typed"


def names_of(job: Job) -> dict[str, str]:
    """What the leaves of a key are that are mere digests."""
    names = {"onnx.model": job.called}
    if job.network is not None:
        names |= {f"onnx.files[{i}]": f"'{path.name}'" for i, path in enumerate(job.source)}
    for index, file in enumerate(job.external):
        names[f"onnx.external[{index}]"] = f"external data '{file}'"
    if (calibration := job.variant.precision.calibration) is not None:
        names["typed.calibration.data.files"] = f"calibration data {calibration.data}"
    return names


def _of_networks(spec: Spec) -> Iterator[Problem]:
    """What cannot be asked of a network definition: there is no ONNX model of it."""
    if spec.model.prepare.asked:
        yield Place(spec.document, ("model", "prepare")).problem(
            "'prepare' changes an ONNX model, and a network definition is none", "take it out"
        )
    for cell in spec.cells:
        precision = cell.variant.precision
        if precision.converts:
            yield cell.precision.problem(
                f"precision '{precision.name}' converts an ONNX model, and a network definition is "
                "none: it has the types that its layers are given",
                "precision: source",
            )
        if cell.variant.accuracy is not None:
            yield cell.accuracy.problem(
                "accuracy is compared with an ONNX model, and a network definition is none",
                "take the check out, or export the model to ONNX",
            )


def _together(hashed: Files) -> Digest:
    return digest_value([digest for digest, _ in hashed.values()])


def _notes(spec: Spec, interface: ModelInterface) -> Iterator[str]:
    for tensor in (*interface.inputs, *interface.outputs):
        if tensor.type == "float64":
            file = spec.document.file
            yield f"{file}: {tensor} is float32 in the engine: TensorRT has no float64"
