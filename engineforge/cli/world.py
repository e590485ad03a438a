"""What commands read from the world: the project that is meant, the environment, the clock."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engineforge import __version__
from engineforge.cli import where
from engineforge.errors import Problem, UsageError, printable
from engineforge.project.folder import find_root
from engineforge.project.plans import Selection
from engineforge.project.project import Project
from engineforge.project.specs import Specs, World
from engineforge.worker.outcome import Event

if TYPE_CHECKING:
    from engineforge.worker.dispatching import Cluster

Observe = Callable[[Event], None]
_CLUSTER_VARIABLE = "RAY_ADDRESS"
_SHOWN = "CUDA_VISIBLE_DEVICES"


def say(text: str) -> None:
    """To the person at the terminal; data goes to stdout."""
    print(printable(text), file=sys.stderr, flush=True)


def print_json(value: Any) -> None:  # noqa: ANN401 - any JSON value
    print(json.dumps(value, indent=2, ensure_ascii=False))


def paths(args: argparse.Namespace) -> list[Path]:
    return [Path(path) for path in args.paths]


def specs(
    args: argparse.Namespace,
    given: Sequence[Path] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
) -> Specs:
    """The specs that are meant, as the options have them; UsageError where there are none. Their
    processes have the environment of this one, unless another is given."""
    given = paths(args) if given is None else given
    root = find_root(given)
    return Specs(
        given,
        root=root,
        cache=cache(args, root),
        world=outside(environment(args) if environ is None else environ, say),
        remote=getattr(args, "remote", None),
        push=getattr(args, "push", None),
        no_remote=getattr(args, "no_remote", False),
        glance=getattr(args, "glance", None),
    )


def project(
    args: argparse.Namespace, given: Sequence[Path]
) -> contextlib.AbstractContextManager[Project]:
    """The project that these specs belong to; UsageError where there is none."""
    return specs(args, given).open()


def outside(environment: Mapping[str, str], said: Callable[[str], None]) -> World:
    """The world as it is, with this environment."""
    return World(
        environment=environment,
        now=now,
        memory=available_memory,
        about=about,
        said=said,
        cluster=_cluster,
    )


def cache(args: argparse.Namespace, root: Path) -> Path:
    return Path(where.cache(args.cache, os.environ, str(root)))


def _cluster(on: str) -> contextlib.AbstractContextManager[Cluster]:
    from engineforge.cli.node import serve
    from engineforge.worker.ray import RUNNING, RayCluster

    # As Ray's own commands have it.
    on = os.environ.get(_CLUSTER_VARIABLE) or RUNNING if on == RUNNING else on
    return RayCluster(on, serve, os.environ)


def environment(args: argparse.Namespace) -> Mapping[str, str]:
    """The environment of children."""
    return shown(os.environ, getattr(args, "gpus", None))


def shown(environ: Mapping[str, str], gpus: str | None) -> Mapping[str, str]:
    """The same environment, in which `gpus` leaves some of the GPUs that it shows already: numbers
    count those, as CUDA does."""
    if gpus is None:
        return environ
    shown = [each for each in environ.get(_SHOWN, "").split(",") if each]
    if not shown and _SHOWN in environ:
        raise UsageError(f"--gpus: {_SHOWN} is empty, which hides all GPUs")
    chosen = []
    for each in gpus.split(","):
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
    return {**environ, _SHOWN: ",".join(dict.fromkeys(chosen))}


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
