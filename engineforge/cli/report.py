"""`engineforge report`: all that is known of a project, as one page or as JSON."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from engineforge import __version__
from engineforge.cli import world
from engineforge.errors import EngineForgeError, HostUnfit, SpecError, UsageError
from engineforge.nightly.folder import log_file
from engineforge.project.folder import ENVIRONMENTS
from engineforge.project.overview import overview
from engineforge.project.plans import Plan
from engineforge.project.project import Project
from engineforge.project.served import Served, look
from engineforge.report import events
from engineforge.report.page.document import About, document
from engineforge.report.text import counted
from engineforge.store import files


def run(args: argparse.Namespace) -> int:
    if args.output is None and not args.json:
        raise UsageError("-o says where the page goes", hint="engineforge report -o report.html")
    output = None if args.output is None else Path(args.output)
    if output is not None and (output.is_dir() or not output.absolute().parent.is_dir()):
        raise UsageError(
            f"'{output}' is no file in a folder that is there", hint="make the folder first"
        )
    specs = world.paths(args)
    log = None if args.events is None else _log(log_file(Path(args.events)))
    with world.project(args, specs) as project:
        plan = project.plan(specs, world.selection(args), checks=True, data_may_miss=True)
        problems = world.say_problems(plan.problems)
        served = None if args.no_environments else _served(project, plan)
        found = overview(project, plan, served)
        about = About(
            time=world.now().isoformat(timespec="seconds"),
            project=project.root.resolve().parent.name or "specs",
            version=__version__,
            git=str(world.about(project.root).get("git", "")),
        )
        made = document(found, about, log)
    if output is not None:
        from engineforge.report.page.html import page

        _write(output, page(made))
        world.say(f"{output}: {counted(len(found.variants), 'variant')}")
    if args.json:
        world.print_json(made)
    return SpecError.exit_code if problems else 0


def _log(path: Path) -> events.Log:
    try:
        return events.read(path.read_text(encoding="utf-8", errors="replace"), str(path))
    except FileNotFoundError:
        raise UsageError(f"--events: there is no file '{path}'") from None
    except IsADirectoryError:
        raise UsageError(f"--events: '{path}' is a folder, and no night's") from None


def _served(project: Project, plan: Plan) -> Sequence[Served] | None:
    """What the environments have; None where the project has none. What is wrong with their file
    is said, and the rest of the page made all the same."""
    file = project.root / ENVIRONMENTS
    if not file.is_file():
        return None
    from engineforge.cli.signing import environments

    try:
        names = list(dict.fromkeys(each.spec for each in plan.variants))
        return look(environments(file), names)
    except EngineForgeError as error:
        world.say(f"note: environments are left out: {error}")
        plan.notes.append(f"environments are left out: {error}")
        return None


def _write(path: Path, text: str) -> None:
    """All at once: who looks at the page meanwhile sees the one before."""
    try:
        files.replace(path, text.encode(), path.absolute().parent)
    except OSError as error:
        raise HostUnfit(f"'{path}' cannot be written: {error.strerror}") from error
