"""A project: planned, and its plans carried out. Loads what it needs when it needs it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import filterfalse
from pathlib import Path
from typing import TYPE_CHECKING

from engineforge.digest import Digest
from engineforge.errors import EngineForgeError, HostUnfit, Problem, SpecError, UsageError
from engineforge.project.folder import ENVIRONMENTS, SETTINGS, spec_paths
from engineforge.project.glance import Glance
from engineforge.project.plans import Effort, Plan, PlannedVariant, Selection
from engineforge.project.recall import Recall
from engineforge.spec import LOCK
from engineforge.store.index import Index
from engineforge.store.known import ENTRIES
from engineforge.store.local import ENGINE, LocalStore
from engineforge.store.projects import Projects
from engineforge.worker.conditions import Conditions
from engineforge.worker.outcome import (
    NOT_STARTED,
    Built,
    Failed,
    Outcome,
    Prepared,
    Reused,
    Skipped,
)

if TYPE_CHECKING:  # a no-op build loads none of these
    from engineforge.backends.gpu import GpuUnreadable, HostGpu
    from engineforge.project.reading import Reader
    from engineforge.spec.settings import Settings
    from engineforge.store.far.overlay import Overlay
    from engineforge.target import Target
    from engineforge.worker.dispatching import Cluster
    from engineforge.worker.importer import Importer
    from engineforge.worker.local import Worker
    from engineforge.worker.spare import Spare


class Project:
    """Specs in `root` and the cache. `said` is told at once of whatever is broken in the store;
    `glance` is one at these specs, just made, where there is one.

    A context manager: its end saves what was found out to the index.
    """

    def __init__(
        self,
        root: Path,
        cache: Path,
        environment: Mapping[str, str],
        said: Callable[[str], None] = lambda _: None,
        glance: Glance | None = None,
    ) -> None:
        self.root = root
        self.store = LocalStore(cache, said)
        self.index = Index(cache)
        self._environment, self._said = environment, said
        self._shown = environment.get("CUDA_VISIBLE_DEVICES", "all")
        self._recall = Recall(root, self.store, self.index, self._shown, glance)
        self._gpus: Sequence[HostGpu] | GpuUnreadable | None = None
        self._helpers: tuple[Importer, Spare] | None = None
        self._settled: dict[str, Outcome] = {}
        self._exit = contextlib.ExitStack()

    def __enter__(self) -> Project:
        # Where it cannot be written, planning works all the same, and remembers nothing.
        with contextlib.suppress(HostUnfit):
            self.store.create()
        return self

    def __exit__(self, *error: object) -> None:
        self._exit.close()
        self._recall.finish(failed=error[0] is not None)
        self._recall.close()
        if self.index.changed:
            # An index that cannot be written costs time, later; nothing else.
            with contextlib.suppress(OSError):
                self.index.save(self.store.root / "staging")

    def plan(
        self,
        paths: Sequence[Path],
        selection: Selection,
        *,
        versions: Mapping[str, str] | None = None,
        paranoid: bool = False,
        to_build: bool = False,
        jobs: bool = False,
        checks: bool = False,
        data_may_miss: bool = False,
        environments: bool = False,
    ) -> Plan:
        """Plan the selected variants of the specs named or contained in `paths`.

        `to_build` lets TensorRT load meanwhile, for the build that is to follow; `versions` plans
        for other toolchain versions, by backend; `paranoid` trusts nothing that was remembered;
        `jobs` reads every spec, so that all variants have one; `checks` does, and reads the data of
        accuracy checks too; with `data_may_miss`, what is wrong with that data is a note. What is
        wrong with specs and targets, and with the `environments` if asked, is in the plan.
        """
        if paranoid:
            self.index.forget()
            self._recall.forget()
        plan, reader = Plan(), None
        files = spec_paths(paths)
        recall = not (versions or jobs or checks)
        if recall:
            self._recall.look(files, whole=self.root in paths)
        known_variants: set[str] = set()
        known_targets: set[str] = set()
        named: dict[str, str] = {}
        for path in files:
            name = self._recall.name(path)
            if "\n" in name or "\r" in name:  # what a second line says, logs take for their own
                file = path.replace("\n", "\\n").replace("\r", "\\r")
                plan.problems.append(Problem(file=file, message="a name of several lines"))
                continue
            if named.setdefault(name, path) != path:
                message = f"'{named[name]}' has the same name, '{name}'"
                plan.problems.append(Problem(file=path, message=message))
                continue
            try:
                planned = self._recall.planned(path, name) if recall else None
            except OSError as error:
                message = f"cannot be read: {error.strerror}"
                plan.problems.append(Problem(file=path, message=message))
                continue
            if planned is None:
                if reader is None:
                    self._made_helpers()[0].start()
                    reader = self._reader(
                        versions or {},
                        to_build=to_build,
                        checks=checks,
                        data_may_miss=data_may_miss,
                    )
                planned = reader.read(Path(path), name, plan)
            if not selection.all:
                plan.others += filterfalse(selection.takes, planned)
                known_variants.update(each.variant for each in planned)
                known_targets.update(each.target for each in planned)
                planned = list(filter(selection.takes, planned))
            plan.variants += planned
        plan.whole = selection.all and self.root in paths
        if reader is not None:
            plan.problems += reader.target_problems
        if environments:
            plan.problems += self._environment_problems()
        if not plan.problems:
            _must_exist("variant", selection.variants, known_variants)
            _must_exist("target", selection.targets, known_targets)
        plan.effort = Effort(
            files_hashed=self.index.files_hashed,
            bytes_hashed=self.index.bytes_hashed,
            specs_parsed=reader.parsed if reader else 0,
        )
        return plan

    def make_sources(
        self, plan: Plan, conditions: Conditions, *, overlay: Overlay | None = None
    ) -> None:
        """Make the models that a plan lacks; planning again then finds them, or what became of the
        attempt."""
        with self.worker(conditions, overlay) as worker:
            found = worker.obtain(list(plan.unmade.values()))
        self._settled |= {
            spec: outcome
            for spec, outcome in zip(plan.unmade, found, strict=True)
            if not isinstance(outcome, Prepared)
        }

    def build(
        self,
        plan: Plan,
        conditions: Conditions,
        *,
        prepare: bool = False,
        overlay: Overlay | None = None,
        cluster: Cluster | None = None,
    ) -> list[Outcome]:
        """Carry a plan out: an outcome for each of its variants, in their order. With `prepare`
        only what comes before the engine, also for engines that another host has to build; what
        other machines built already comes from `overlay`, which is given what is built here. With
        a `cluster`, which needs one, its nodes build the engines, whatever this host could."""
        in_vain = [each for each in plan.variants if isinstance(each.settled, Failed)]
        jobs = {
            each.label: each.job
            for each in plan.stale
            if each.job is not None and (prepare or cluster or each.unfit is None)
        }
        stopped: dict[str, Outcome] = {}
        if in_vain and not conditions.keep_going:
            stopped = {label: Skipped(why=NOT_STARTED) for label in jobs}
            jobs = {}
        elsewhere = {
            each.label: each.job
            for each in plan.stale
            if each.job is not None and each.label not in {*jobs, *stopped}
        }
        outcomes: dict[str, Outcome] = stopped
        unregistered = self._recall.unregistered(plan.variants)
        registered = self._registered(each for each in unregistered if each.engine is not None)
        if jobs or (elsewhere and overlay):
            with self.worker(conditions, overlay, cluster) as worker:
                if elsewhere and overlay:
                    found = zip(elsewhere, worker.fetch(list(elsewhere.values())), strict=True)
                    outcomes |= {
                        label: each for label, each in found if not isinstance(each, Skipped)
                    }
                run = worker.prepare if prepare else worker.build
                outcomes |= dict(zip(jobs, run(list(jobs.values())), strict=True))
            if prepare:
                self.index.forget_planned()
            registered = self._registered(
                each
                for each in unregistered
                if each.engine is not None or isinstance(outcomes.get(each.label), Built | Reused)
            )
        if registered and plan.whole:
            self._recall.registers()
        entries = self.store.root / ENTRIES / "engine"
        for variant in plan.variants:
            if (engine := variant.engine) is not None:
                path = Path(f"{entries}/{engine.hex[:2]}/{engine.hex}/{ENGINE}")
                outcomes[variant.label] = Reused(engine=engine, path=path, why="nothing changed")
            elif variant.settled is not None:
                outcomes[variant.label] = variant.settled
            elif variant.label not in outcomes and variant.unfit is not None:
                outcomes[variant.label] = Skipped(why=variant.unfit, unfit=True)
        changed = "its source changed after its model was made of it; run again"
        unmade = Failed(stage="source", error=changed)
        return [outcomes.get(variant.label, unmade) for variant in plan.variants]

    def _registered(self, built: Iterable[PlannedVariant]) -> bool:
        """So that no collection on behalf of other specs takes what these need; False in a cache
        that can only be read."""
        plans = {each.label: each.plan for each in built if each.plan is not None}
        try:
            if plans:
                Projects(self.store.root).register(self.root, plans)
        except OSError:
            return False
        return True

    def rebuild(self, plan: Plan, conditions: Conditions) -> list[Outcome]:
        """Build the engines of a plan made with `jobs` once more, from their own timing caches, and
        compare: an outcome for each of its variants, in their order."""
        jobs = {
            each.label: each.job
            for each in plan.variants
            if each.job is not None and each.engine is not None and each.unfit is None
        }
        with self.worker(conditions) as worker:
            done = dict(zip(jobs, worker.rebuild(list(jobs.values())), strict=True))
        return [
            done.get(each.label)
            or each.settled
            or Skipped(why=each.unfit or "it is not built", unfit=each.unfit is not None)
            for each in plan.variants
        ]

    def settings(self) -> Settings:
        """What `engineforge.yaml` beside the targets says; SpecError where it is wrong."""
        from engineforge.spec.load import load
        from engineforge.spec.settings import Settings, parse_settings
        from engineforge.spec.validate import validate

        file = self.root / SETTINGS
        try:
            text = file.read_bytes()
        except FileNotFoundError:
            return Settings()
        document, problems = load(str(file), text)
        if document is not None and not problems:
            problems = validate("settings", document)
        if document is None or problems:
            raise SpecError(problems)
        return parse_settings(document)

    def _environment_problems(self) -> list[Problem]:
        from engineforge.spec.environments import load_environments

        try:
            return load_environments(self.root / ENVIRONMENTS)[1]
        except FileNotFoundError:
            return []

    def overlay(self, url: str, *, push: bool) -> Overlay:
        """This project's store before the one at `url`, which is given what is built where `push`
        says so. HostUnfit, UsageError or RemoteUnavailable where that one cannot be used."""
        from engineforge.store.far.overlay import Overlay
        from engineforge.store.far.remote import Remote

        self._must_be_apart(url)
        far = Remote.open(url, environment=self._environment, said=self._said)
        given = push and not far.read_only
        return Overlay(self.store, far, index=self.index, push=given, said=self._said)

    def _must_be_apart(self, url: str) -> None:
        folder = Path(url.removeprefix("file://"))
        if "://" in str(folder):
            return
        near, far = self.store.root.resolve(), folder.resolve()
        if near.is_relative_to(far) or far.is_relative_to(near):
            raise UsageError(
                f"the remote store '{url}' and the cache '{self.store.root}' lie in each other",
                hint="give the remote store a folder of its own",
            )

    @contextlib.contextmanager
    def worker(
        self,
        conditions: Conditions,
        overlay: Overlay | None = None,
        cluster: Cluster | None = None,
    ) -> Iterator[Worker]:
        """What carries out jobs on this project's store, for one run."""
        from engineforge.worker.local import Worker

        importer, spare = self._made_helpers()
        with self.store.session() as session:
            yield Worker(
                self.store,
                session,
                self.index,
                importer=importer,
                spare=spare,
                conditions=conditions,
                overlay=overlay,
                cluster=cluster,
            )

    def gpus(self) -> Sequence[HostGpu]:
        """The GPUs of this host, as far as the environment shows them; looked for once, in a child.

        GpuUnreadable, or what became of the child.
        """
        from engineforge.backends.gpu import GpuUnreadable, read_gpus

        if self._gpus is None:
            importer, _ = self._made_helpers()
            try:
                found = importer.ask({"op": "gpus"}, doing="looking at the GPUs")
                self._gpus = read_gpus(found["gpus"])
            except EngineForgeError as error:
                self._gpus = GpuUnreadable(error.args[0], hint=error.hint)
        if isinstance(self._gpus, GpuUnreadable):
            raise self._gpus
        return self._gpus

    def targets(self) -> dict[str, Target]:
        """The targets of this project, by name; SpecError where their file is wrong."""
        reader = self._reader({})
        targets = reader.targets()
        if reader.target_problems:
            raise SpecError(reader.target_problems)
        return targets

    def _reader(
        self,
        versions: Mapping[str, str],
        *,
        to_build: bool = False,
        checks: bool = False,
        data_may_miss: bool = False,
    ) -> Reader:
        from engineforge.project.reading import Reader
        from engineforge.spec import lock as locks

        importer, spare = self._made_helpers()
        locked: tuple[Digest, ...] = ()
        with contextlib.suppress(OSError):
            # Before it is read: one that changes meanwhile is read again the next time.
            locked = (self.index.digest(self.root / LOCK),)
        return Reader(
            self.root,
            self.store,
            self.index,
            importer=importer,
            spare=spare if to_build else None,
            gpus=self.gpus,
            shown=self._shown,
            versions=versions,
            checks=checks,
            data_may_miss=data_may_miss,
            locked=locked,
            lock=locks.read(self.root / LOCK),
            settled=self._settled,
        )

    def _made_helpers(self) -> tuple[Importer, Spare]:
        """The processes that load ONNX and TensorRT while this one reads; not started yet."""
        if self._helpers is None:
            import tempfile

            from engineforge.worker.importer import Importer
            from engineforge.worker.spare import Spare

            folder = self._exit.enter_context(tempfile.TemporaryDirectory())
            self._helpers = (
                Importer(Path(folder), self._environment),
                Spare(Path(folder), self._environment),
            )
            for helper in self._helpers:
                self._exit.callback(helper.close)
        return self._helpers


def _must_exist(what: str, asked: Iterable[str], names: set[str]) -> None:
    for name in sorted(asked):
        if name not in names:
            from engineforge.spec.validate import did_you_mean

            raise UsageError(f"no spec has a {what} '{name}'", hint=did_you_mean(name, names))
