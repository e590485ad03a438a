"""`engineforge diff`: how two engines differ, or two nights."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from engineforge.cli import world
from engineforge.cli.bench import entry_of
from engineforge.cli.labels import Label, label
from engineforge.cli.signing import environments
from engineforge.errors import UsageError
from engineforge.nightly.folder import log_file
from engineforge.project.finding import by_digits, by_file
from engineforge.project.folder import ENVIRONMENTS
from engineforge.project.subjects import Subject, Subjects
from engineforge.report import events
from engineforge.report.difference import difference, difference_lines
from engineforge.report.nights import (
    Report,
    compare_logs,
    compare_reports,
    night_lines,
    read_report,
)
from engineforge.report.promotion import plain
from engineforge.store.local import ENGINE, LocalStore

Night = Report | events.Log


def run(args: argparse.Namespace) -> int:
    nights = [_night(each) for each in (args.a, args.b)]
    match nights:
        case (events.Log() as before, events.Log() as after):
            return _print_night(args, compare_logs(before, after))
        case (Mapping() as before, Mapping() as after):
            return _print_night(args, compare_reports(before, after))
        case (None, None):
            pass
        case _:
            raise UsageError(
                f"'{args.a}' and '{args.b}' are not of one kind",
                hint="give two engines, two outputs of `report --json`, or two nights",
            )
    store = LocalStore(world.cache(args, Path(args.specs)), world.say)
    subjects = Subjects(store)
    found = difference(*(_subject(args, each, store, subjects) for each in (args.a, args.b)))
    if args.json:
        world.print_json(found)
    else:
        _print(difference_lines(found, everything=args.all))
    return 0


def _print_night(args: argparse.Namespace, found: Mapping[str, Any]) -> int:
    if args.json:
        world.print_json(found)
    else:
        _print(night_lines(found))
    return 0


def _print(lines: Iterable[str]) -> None:
    for line in plain(lines):
        print(line)


def _night(what: str) -> Night | None:
    """The report or event log in a file, or in the folder of a night; None for what is none, which
    engines are."""
    path = log_file(Path(what))
    if not path.is_file():
        return None
    with path.open("rb") as file:
        if file.read(1) != b"{":
            return None
    text = path.read_text(encoding="utf-8", errors="replace")
    return read_report(text, what) or events.read(text, str(path))


def _subject(args: argparse.Namespace, what: str, store: LocalStore, subjects: Subjects) -> Subject:
    path = Path(what)
    if path.is_file() and path.name == ENGINE and (entry := entry_of(path)) is not None:
        return subjects.of_entry(entry)
    if path.is_file():
        return subjects.of_entry(by_file(store, path)[0])
    if (path / ENGINE).is_file():
        entry = entry_of(path)
        return subjects.of_entry(by_file(store, path / ENGINE)[0] if entry is None else entry)
    if re.fullmatch(r"(sha256:)?[0-9a-f]+", what):
        return subjects.of_entry(by_digits(store, what.removeprefix("sha256:")))
    named = label(what)
    specs = Path(args.specs)
    environment, slash, rest = what.partition("/")
    file = specs / ENVIRONMENTS
    if slash and file.is_file() and environment in environments(file).names:
        return _served(file, environment, rest, subjects)
    if named is None:
        raise UsageError(
            f"'{what}' is no engine, no report and no event log",
            hint="give a key's digits, a file, SPEC:VARIANT@TARGET or ENV/SPEC:VARIANT@TARGET",
        )
    return _planned(args, specs, named, subjects)


def _served(file: Path, environment: str, what: str, subjects: Subjects) -> Subject:
    """An engine that an environment has: named, or the only one of its spec."""
    opened = environments(file).open(environment)
    named = label(what)
    spec = what if named is None else named.spec
    state = opened.state(spec)
    if state is None:
        raise UsageError(f"{environment} has nothing of '{spec}'")
    found = [
        each
        for each in state.engines
        if named is None or (each.variant, each.target) == (named.variant, named.target)
    ]
    if len(found) != 1:
        there = ", ".join(each.name for each in state.engines)
        raise UsageError(
            f"'{environment}/{what}' is {'none' if not found else 'several'} of the engines there",
            hint=f"{environment}/{spec}:VARIANT@TARGET; it has {there}",
        )
    return subjects.of_served(opened, spec, found[0])


def _planned(args: argparse.Namespace, specs: Path, named: Label, subjects: Subjects) -> Subject:
    """The engine of a variant, as its spec asks for it today."""
    file = named.file(specs)
    with world.project(args, [file]) as project:
        plan = project.plan([file], named.selection)
        world.say_problems(plan.problems)
        for each in plan.variants:
            entry = None if each.engine is None else project.store.get("engine", each.engine)
            if entry is not None:
                return subjects.of_entry(entry, each.label)
    raise named.not_built(file)
