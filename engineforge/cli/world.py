"""What commands read from the world: the project that is meant, the environment, the clock."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from engineforge import __version__
from engineforge.errors import Problem
from engineforge.project.folder import find_root
from engineforge.project.plans import Selection
from engineforge.project.project import Project
from engineforge.worker.outcome import Event

Observe = Callable[[Event], None]
_CACHE_VARIABLE = "ENGINEFORGE_CACHE"


def say(text: str) -> None:
    """To the person at the terminal; data goes to stdout."""
    print(text, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:  # noqa: ANN401 - any JSON value
    print(json.dumps(value, indent=2, ensure_ascii=False))


def paths(args: argparse.Namespace) -> list[Path]:
    return [Path(path) for path in args.paths]


def project(args: argparse.Namespace, specs: list[Path]) -> Project:
    """The project that these specs belong to; UsageError where there is none."""
    root = find_root(specs)
    return Project(root, cache(args, root), os.environ, said=say)


def cache(args: argparse.Namespace, root: Path) -> Path:
    chosen = args.cache or os.environ.get(_CACHE_VARIABLE)
    return Path(chosen) if chosen else Path(os.path.normpath(root / os.pardir / "cache"))


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
