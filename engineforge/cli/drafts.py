"""Writing specs for people to begin with: where they go, which targets they name, nothing twice."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from engineforge.backends import host
from engineforge.cli import target, world
from engineforge.cli.libraries import visible_gpus
from engineforge.errors import HostUnfit, SpecError, UsageError
from engineforge.project.folder import TARGETS
from engineforge.spec.load import load
from engineforge.spec.matrix import parse_targets
from engineforge.spec.validate import validate
from engineforge.target import Target

SPECS = Path("specs")


class Targets:
    """The targets of a folder of specs: those of its targets.yaml, or those of this host, which
    `write` then puts there."""

    def __init__(self, folder: Path, chosen: Sequence[str] = ()) -> None:
        above = [folder, *folder.absolute().parents]
        there = next((each / TARGETS for each in above if (each / TARGETS).is_file()), None)
        self.file = there or folder / TARGETS
        self._text: str | None = None
        if there is None:
            self._text = target.text(*target.detected())
        known = _parsed(self.file, self._text)
        for name in chosen:
            if name not in known:
                raise UsageError(
                    f"'{self.file}' names no target '{name}'", hint=f"it names: {', '.join(known)}"
                )
        self.targets: Mapping[str, Target] = (
            {name: known[name] for name in chosen} if chosen else _fitting(known)
        )

    def write(self) -> bool:
        """Write targets.yaml where there is none; returns whether it was written."""
        if self._text is None:
            return False
        begin = "# Where engines will run; `engineforge target detect` wrote these for its host.\n"
        write_new(self.file, begin + self._text)
        return True


def _parsed(file: Path, text: str | None) -> dict[str, Target]:
    document, problems = load(str(file), file.read_bytes() if text is None else text.encode())
    if document is not None:
        problems += validate("targets", document)
    if document is None or problems:
        raise SpecError(problems)
    found, problems = parse_targets(document)
    if problems:
        raise SpecError(problems)
    return found


def _fitting(known: Mapping[str, Target]) -> dict[str, Target]:
    """Those that this host can build for; all where it can for none."""
    fitting = {}
    for name, each in known.items():
        try:
            if host.why_not(each, visible_gpus) is None:
                fitting[name] = each
        except HostUnfit:
            continue
    return fitting or dict(known)


def write_new(path: Path, text: str) -> None:
    """Write a file that is not there yet; UsageError where it is, HostUnfit where it cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UsageError(
            f"'{path.parent}' is no folder", hint="name another file with -o"
        ) from None
    except OSError as error:
        raise _unwritable(path.parent, error) from error
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(
            f"'{path}' is there already, and nothing is overwritten",
            hint="name another file with -o, or move this one away",
        ) from None
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> HostUnfit:
    return HostUnfit(
        f"'{path}' cannot be written: {error.strerror}", hint="name another place with -o"
    )


def relative(path: Path, folder: Path) -> str:
    """A path as a spec in `folder` names it."""
    import os

    # Not resolved: a link is meant as it is.
    return Path(os.path.relpath(path, folder)).as_posix()


def placed_in(folder: Path) -> Callable[[str], str]:
    """Makes paths that are meant from here those of a spec in `folder`."""

    def place(path: str) -> str:
        if path.startswith(("$", "~", "%", "<")) or Path(path).is_absolute() or "\\" in path:
            return path
        return relative(Path(path), folder)

    return place


def say_next(spec: Path, *, wrote_targets: Path | None) -> None:
    world.say(f"wrote {spec}")
    if wrote_targets is not None:
        world.say(f"wrote {wrote_targets}, with the targets of this host")
    say_build(spec)


def say_build(spec: Path) -> None:
    """Say the command that builds it, as a shell takes it."""
    world.say(f"next: {shlex.join(['engineforge', 'build', str(spec)])}")
