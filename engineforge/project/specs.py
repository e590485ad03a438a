"""The front door of specs: what the command line and programs plan, build, check and compare by.
What a run needs of the world outside is given to it."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from engineforge.errors import HostUnfit, SpecError, UsageError
from engineforge.project.glance import Glance
from engineforge.project.outcomes import Results
from engineforge.project.plans import Asked, Kind, Plan, Running, Selection
from engineforge.project.project import Project
from engineforge.worker.conditions import Conditions
from engineforge.worker.outcome import Outcome

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from engineforge.store.far.overlay import Overlay
    from engineforge.target import Target
    from engineforge.worker.dispatching import Cluster

Push = Literal["always", "ci", "never"]
_VERSION = re.compile(r"[0-9]+(\.[0-9]+){2,3}")
_REMOTE_VARIABLE = "ENGINEFORGE_REMOTE"
# A TensorRT-RTX build takes about one core, and four times its weights of memory: so many at once
# where it is not known how much there is.
_MOST_JOBS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What a run is given from outside: the environment of this process and its children, the
    clock, the bytes of memory that are left (None: unknown), what manifests say of where they come
    from, who is told of what matters and is no error, and how a cluster is reached."""

    environment: Mapping[str, str]
    now: Callable[[], datetime]
    memory: Callable[[], int | None]
    about: Callable[[Path], Mapping[str, object]]
    said: Callable[[str], None]
    cluster: Callable[[str], AbstractContextManager[Cluster]]


class Specs:
    """The specs at `paths`, below the folder `root` that has their targets.

    A context manager, which keeps open what several steps share (processes that have ONNX and
    TensorRT loaded, the index); without it each step opens and closes them by itself.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        root: Path,
        cache: Path,
        world: World,
        remote: str | None = None,
        push: Push | None = None,
        no_remote: bool = False,
        glance: Glance | None = None,
    ) -> None:
        self.paths, self.root, self.cache = tuple(paths), root, cache
        self._world, self._glance = world, glance
        self._remote, self._push, self._no_remote = remote, push, no_remote
        self._project: Project | None = None
        self._overlays: list[Overlay | None] = []
        self._about: Mapping[str, object] | None = None

    def __enter__(self) -> Specs:
        if self._project is not None:
            raise RuntimeError("these specs are open already")
        self._project = Project(
            self.root, self.cache, self._world.environment, self._world.said, self._glance
        ).__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        project, self._project = self._project, None
        self._glance = self._about = None
        self._overlays.clear()
        if project is not None:
            project.__exit__(*error)

    @contextlib.contextmanager
    def open(self) -> Iterator[Project]:
        """Their project, for what looks into its store."""
        if self._project is not None:
            yield self._project
            return
        with self:
            assert self._project is not None  # noqa: S101 - by `__enter__`
            yield self._project

    def plan(
        self,
        *,
        variants: Collection[str] = (),
        targets: Collection[str] = (),
        versions: Mapping[str, str] | None = None,
        paranoid: bool = False,
        checks: bool = False,
        data_may_miss: bool = False,
        environments: bool = False,
        jobs: bool = False,
        to_build: bool = False,
    ) -> Plan:
        """What is up to date, what is stale and why. Loads no TensorRT and builds nothing; what is
        wrong with specs, targets and models is in its `problems`.

        `variants` and `targets` choose by name, none: all. `versions` plans for toolchains that
        targets do not have yet, such as `{"tensorrt": "11.4.0.106"}`; `paranoid` trusts nothing
        that was remembered; `checks` reads the data of accuracy checks too, and with
        `data_may_miss` what is wrong with that is a note; `environments` validates
        environments.yaml; `jobs` reads every spec again; `to_build` lets TensorRT load meanwhile,
        for a build that follows inside one `with`. UsageError for names that there are not, and for
        what is no version.
        """
        _must_be_versions(versions or {})
        selection = Selection(variants=frozenset(variants), targets=frozenset(targets))
        return self.planned(
            Asked(
                selection=selection,
                versions=versions or {},
                paranoid=paranoid,
                checks=checks,
                data_may_miss=data_may_miss,
                environments=environments,
                jobs=jobs,
                to_build=to_build,
            )
        )

    def check(self) -> Plan:
        """Validate specs, targets and environments against schema, models and data: a plan, with
        its `notes`. SpecError with every problem of every file."""
        plan = self.plan(checks=True, environments=True)
        _must_be_sound(plan)
        return plan

    def targets(self) -> dict[str, Target]:
        """The targets by name; SpecError where their file is wrong."""
        with self.open() as project:
            return project.targets()

    def planned(self, asked: Asked) -> Plan:
        """What planning gives that is asked for so."""
        with self.open() as project:
            plan = project.plan(
                self.paths,
                asked.selection,
                versions=asked.versions,
                paranoid=asked.paranoid,
                to_build=asked.to_build,
                jobs=asked.jobs,
                checks=asked.checks,
                data_may_miss=asked.data_may_miss,
                environments=asked.environments,
            )
            plan.faults = tuple(map(str, project.store.faults))
        plan.specs, plan.asked = self, replace(asked, paranoid=False)
        return plan

    def elsewhere(self, plan: Plan) -> Plan:
        """`Plan.elsewhere`."""
        from engineforge.project.elsewhere import seek

        with self.open():
            overlay = self.overlay()
            if overlay is not None:
                plan = self._with_jobs(plan)
                seek(plan, overlay)
        return plan

    def make_sources(self, plan: Plan, **running: Unpack[Running]) -> Plan:
        """`Plan.make_sources`."""
        if not plan.unmade:
            return plan
        with self.open() as project:
            project.make_sources(plan, self.conditions(running), overlay=self.overlay())
            return self.planned(plan.asked)

    def build(
        self, plan: Plan, *, prepare: bool, on: str | None, **running: Unpack[Running]
    ) -> Results:
        """`Plan.build`."""
        if on is not None and prepare:
            raise UsageError("a cluster builds engines, and what is only prepared needs none")
        keep_going = running.get("keep_going", False)
        _must_be_sound(plan, keep_going=keep_going)
        with self.open() as project:
            overlay = None
            if plan.stale:
                overlay = self.overlay() if on is None else self.shared()
            plan = self.make_sources(plan, **running)
            _must_be_sound(plan, keep_going=keep_going)
            if overlay is not None or prepare:
                plan = self._with_jobs(plan)
            how = self.conditions(running, about=bool(plan.stale))
            reached = on is not None and plan.stale
            with self._world.cluster(on) if on and reached else contextlib.nullcontext() as cluster:
                outcomes = project.build(
                    plan, how, prepare=prepare, overlay=overlay, cluster=cluster
                )
            return _results(project, plan, outcomes)

    def measure(
        self, plan: Plan, kind: Kind, *, again: bool, **running: Unpack[Running]
    ) -> Results:
        """`Plan.check`."""
        from engineforge.project import checking

        keep_going = running.get("keep_going", False)
        with self.open() as project:
            if not plan.asked.checks:
                plan = self.planned(replace(plan.asked, checks=True))
            _must_be_sound(plan, keep_going=keep_going)
            plan = self.make_sources(plan, **running)
            _must_be_sound(plan, keep_going=keep_going)
            how = self.conditions(running)
            match kind:
                case "accuracy":
                    outcomes = checking.check(project, plan, how, "checks")
                case "sensitivity":
                    outcomes = checking.check(project, plan, how, "sensitivity")
                case "engine":
                    outcomes = checking.check_engines(project, plan, how)
                case "latency":
                    outcomes = checking.check_latency(project, plan, how, again=again)
            return _results(project, plan, outcomes)

    def rebuild(self, plan: Plan, **running: Unpack[Running]) -> Results:
        """`Plan.rebuild`."""
        with self.open() as project:
            if not plan.asked.jobs:
                plan = self.planned(replace(plan.asked, jobs=True))
            _must_be_sound(plan)
            plan = self.make_sources(plan, **running)
            _must_be_sound(plan)
            outcomes = project.rebuild(plan, self.conditions(running))
            return _results(project, plan, outcomes)

    def overlay(self) -> Overlay | None:
        """This project's store before the one that machines share, where what was given, the
        environment or `engineforge.yaml` names one. To be asked inside `with` or `open`."""
        if not self._overlays:  # looked for once: why there is none is said once
            with self.open() as project:
                self._overlays.append(self._made_overlay(project))
        return self._overlays[0]

    def alone(self) -> None:
        """From now on, as if there were none."""
        self._overlays[:] = [None]

    def shared(self) -> Overlay:
        """The same, which from now on is given what is built; UsageError where there is none."""
        if self._push != "always":
            self._push = "always"
            self._overlays.clear()
        found = self.overlay()
        if found is None:
            raise UsageError(
                "the engines that a cluster builds come through a store that all machines share, "
                "and there is none",
                hint="name one with --remote, or in specs/engineforge.yaml: remote: {url: s3://…}",
            )
        return found

    def conditions(self, running: Running, *, about: bool = True) -> Conditions:
        """How to run, with what the world says of where."""
        memory, cores = self._world.memory(), len(os.sched_getaffinity(0))
        usual = cores if memory is not None else min(_MOST_JOBS, cores)
        return Conditions(
            jobs=running.get("jobs") or usual,
            keep_going=running.get("keep_going", False),
            timeout=running.get("timeout"),
            memory=memory,
            cold=running.get("cold", False),
            environment=self._world.environment,
            about=self._told() if about else {},
            now=self._world.now,
            observe=running.get("observe", lambda _: None),
        )

    def _told(self) -> Mapping[str, object]:
        """What manifests say of where they come from: one thing as long as these are open."""
        found = self._about
        if found is None:
            found = self._world.about(self.root)
            self._about = found if self._project is not None else None
        return found

    def _made_overlay(self, project: Project) -> Overlay | None:
        asked = self._push
        if self._no_remote:
            return None
        found = project.settings().remote
        if self._remote is not None and not self._remote.strip():
            raise UsageError("--remote names nothing", hint="--no-remote uses none")
        environment = self._world.environment
        url = self._remote or environment.get(_REMOTE_VARIABLE) or None
        if url is None and found is not None:
            # A folder is meant from where it is written.
            url = found.url if "://" in found.url else os.path.normpath(project.root / found.url)
        if url is None:
            return None
        push = asked or (found.push if found is not None else "ci")
        given = push == "always" or (push == "ci" and _in_ci(environment))
        try:
            made = project.overlay(url, push=given)
        except HostUnfit as error:
            if self._remote is not None:
                raise
            # What all specs name need not be installed everywhere.
            self._world.said(f"note: {error}")
            return None
        if asked == "always" and not made.pushes:
            raise UsageError(f"'{made.where}' can only be read, and nothing can be pushed to it")
        return made

    def _with_jobs(self, plan: Plan) -> Plan:
        """The same plan, with a job for each variant that is stale: one that is remembered to be
        for other hosts has none."""
        if all(each.job is not None for each in plan.stale):
            return plan
        return self.planned(replace(plan.asked, jobs=True))


def _must_be_versions(versions: Mapping[str, str]) -> None:
    if not versions:
        return
    from engineforge.spec.matrix import BACKENDS

    # No target would have them, and all would seem to be up to date.
    for backend, version in versions.items():
        if backend not in BACKENDS or not _VERSION.fullmatch(version):
            raise UsageError(
                f"'{backend}={version}': expected a backend and a full version",
                hint="such as --with tensorrt=11.4.0.106, in Python {'tensorrt': '11.4.0.106'}",
            )


def _must_be_sound(plan: Plan, *, keep_going: bool = False) -> None:
    if plan.problems and not keep_going:
        raise SpecError(plan.problems)


def _results(project: Project, plan: Plan, outcomes: Sequence[Outcome]) -> Results:
    faults = dict.fromkeys((*plan.faults, *map(str, project.store.faults)))
    return Results(plan=plan, outcomes=tuple(outcomes), faults=tuple(faults))


def _in_ci(environment: Mapping[str, str]) -> bool:
    return environment.get("CI", "").lower() not in ("", "0", "false", "no")
