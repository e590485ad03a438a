"""What commands read from the world: the project that is meant, the environment, the clock."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engineforge import __version__
from engineforge.cli import where
from engineforge.errors import HostUnfit, Problem, UsageError, printable
from engineforge.project.folder import find_root
from engineforge.project.plans import Plan, Selection
from engineforge.project.project import Project
from engineforge.worker.outcome import Event

if TYPE_CHECKING:
    from engineforge.store.far.overlay import Overlay
    from engineforge.worker.dispatching import Cluster

Observe = Callable[[Event], None]
_REMOTE_VARIABLE = "ENGINEFORGE_REMOTE"
_CLUSTER_VARIABLE = "RAY_ADDRESS"
_SHOWN = "CUDA_VISIBLE_DEVICES"


def say(text: str) -> None:
    """To the person at the terminal; data goes to stdout."""
    print(printable(text), file=sys.stderr, flush=True)


def print_json(value: Any) -> None:  # noqa: ANN401 - any JSON value
    print(json.dumps(value, indent=2, ensure_ascii=False))


def paths(args: argparse.Namespace) -> list[Path]:
    return [Path(path) for path in args.paths]


def project(args: argparse.Namespace, specs: list[Path]) -> Project:
    """The project that these specs belong to; UsageError where there is none."""
    root = find_root(specs)
    seen = getattr(args, "glance", None)
    return Project(root, cache(args, root), environment(args), said=say, glance=seen)


def cache(args: argparse.Namespace, root: Path) -> Path:
    return Path(where.cache(args.cache, os.environ, str(root)))


def cluster(args: argparse.Namespace) -> contextlib.AbstractContextManager[Cluster | None]:
    """The cluster whose nodes are to build, where the options name one."""
    if args.on is None:
        return contextlib.nullcontext()
    from engineforge.cli.node import serve
    from engineforge.worker.ray import RUNNING, RayCluster

    # As Ray's own commands have it.
    on = os.environ.get(_CLUSTER_VARIABLE) or RUNNING if args.on == RUNNING else args.on
    return RayCluster(on, serve)


def overlay(args: argparse.Namespace, project: Project) -> Overlay | None:
    """The project's store before the one that machines share, where the options, the environment
    or `engineforge.yaml` name one."""
    if args.no_remote:
        return None
    found = project.settings().remote
    if args.remote is not None and not args.remote.strip():
        raise UsageError("--remote names nothing", hint="--no-remote uses none")
    url = args.remote or os.environ.get(_REMOTE_VARIABLE) or None
    if url is None and found is not None:
        # A folder is meant from where it is written.
        url = found.url if "://" in found.url else os.path.normpath(project.root / found.url)
    if url is None:
        return None
    asked = getattr(args, "push", None)
    push = asked or (found.push if found is not None else "ci")
    given = push == "always" or (push == "ci" and _in_ci())
    try:
        made = project.overlay(url, push=given)
    except HostUnfit as error:
        if args.remote is not None:
            raise
        say(f"note: {error}")  # what all specs name need not be installed everywhere
        return None
    if asked == "always" and not made.pushes:
        raise UsageError(f"'{made.where}' can only be read, and nothing can be pushed to it")
    return made


def _in_ci() -> bool:
    return os.environ.get("CI", "").lower() not in ("", "0", "false", "no")


def with_jobs(
    args: argparse.Namespace, project: Project, plan: Plan, versions: Mapping[str, str]
) -> Plan:
    """The same plan, with a job for each variant that is stale: one that is remembered to be for
    other hosts has none."""
    if all(each.job is not None for each in plan.stale):
        return plan
    return project.plan(paths(args), selection(args), versions=versions, jobs=True)


def environment(args: argparse.Namespace) -> Mapping[str, str]:
    """The environment of children. `--gpus` leaves them some of the GPUs that it shows already:
    numbers count those, as CUDA does."""
    asked = getattr(args, "gpus", None)
    if asked is None:
        return os.environ
    shown = [each for each in os.environ.get(_SHOWN, "").split(",") if each]
    if not shown and _SHOWN in os.environ:
        raise UsageError(f"--gpus: {_SHOWN} is empty, which hides all GPUs")
    chosen = []
    for each in asked.split(","):
        if not re.fullmatch(r"[0-9]+|(GPU|MIG)-[-/0-9A-Za-z]+", each):
            raise UsageError(
                f"--gpus: '{each}' is no GPU",
                hint="expected numbers or UUIDs with commas between: 0,2 or GPU-145098f9-…",
            )
        meant = each
        if each.isdecimal() and shown:
            if int(each) >= len(shown):
                raise UsageError(
                    f"--gpus: there is no GPU {each}",
                    hint=f"{_SHOWN} leaves {len(shown)}, which are counted from 0",
                )
            meant = shown[int(each)]
        elif shown and each not in shown:
            raise UsageError(f"--gpus: '{each}' is not among {_SHOWN}={','.join(shown)}")
        chosen.append(meant)
    return {**os.environ, _SHOWN: ",".join(dict.fromkeys(chosen))}


def available_memory() -> int | None:
    """Bytes of memory that this host has left for children, or this container, where it is told."""
    found = []
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        found.append(int(text.partition("MemAvailable:")[2].split()[0]) * 1024)
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        if limit != "max":
            used = int((group / "memory.current").read_text(encoding="ascii"))
            stat = (group / "memory.stat").read_text(encoding="ascii")
            # Of the page cache, what nobody looked at of late is given up when it is needed.
            free = int(stat.partition("inactive_file ")[2].split()[0])
            found.append(int(limit) - used + free)
    except (OSError, ValueError, IndexError):
        pass
    return min(found, default=None)


def selection(args: argparse.Namespace) -> Selection:
    return Selection(variants=frozenset(args.variant), targets=frozenset(args.target))


def now() -> datetime:
    return datetime.now(timezone.utc)


def about(root: Path) -> dict[str, object]:
    """What every manifest of this run says of where it comes from; in no key."""
    import socket

    found: dict[str, object] = {"engineforge": __version__, "host": socket.gethostname()}
    if git := _git(root, "rev-parse", "HEAD"):
        changed = _git(root, "status", "--porcelain", "--", ".")
        found["git"] = git + ("-dirty" if changed else "")
    return found


def _git(folder: Path, *words: str) -> str:
    import subprocess

    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def say_notes(notes: Iterable[str]) -> None:
    for note in notes:
        say(f"note: {note}")


def say_problems(problems: Iterable[Problem]) -> int:
    """Print problems in the order of their places; returns how many there are."""
    ordered = sorted(problems, key=lambda problem: problem.place)
    for problem in ordered:
        say(str(problem))
    return len(ordered)
