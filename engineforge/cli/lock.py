"""`engineforge lock`: which files the URLs in specs stand for now, in the lock file beside
them. With `--check`: whether it says that of all of them, and of no others."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engineforge.cli import world
from engineforge.errors import EngineForgeError, Problem, SpecError, UsageError
from engineforge.project.folder import find_root, spec_files
from engineforge.report.text import counted, size
from engineforge.spec import LOCK
from engineforge.spec import lock as locks
from engineforge.spec import url as urls
from engineforge.spec.load import Place, load
from engineforge.spec.lock import Lock, Locked
from engineforge.spec.sources import UrlFile, UrlSource, parse_model
from engineforge.spec.validate import validate
from engineforge.store.far.resolve import resolve
from engineforge.worker.sharing import PARTIAL


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A file that a spec names by its URL, and where."""

    file: UrlFile
    spec: str
    place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What became of each URL, and the lock that was written; `failed` has no new entry."""

    lock: Lock
    states: Mapping[str, str]
    written: bool
    failed: Mapping[str, EngineForgeError] = field(default_factory=dict)


def run(args: argparse.Namespace) -> int:
    paths = world.paths(args)
    root = find_root(paths)
    everything = read([root])
    path = root / LOCK
    if args.check:
        if args.update is not None:
            raise UsageError("--check changes nothing, and --update would")
        return _check(args, path, everything)
    meant = {each.file.url for each in read(paths)}
    done = lock(
        path,
        everything,
        meant,
        update=args.update,
        environment=world.environment(args),
        partial=world.cache(args, root) / PARTIAL,
        said=world.say,
    )
    if args.json:
        world.print_json(_as_json(path, done))
    else:
        for line in _lines(path, done):
            print(line)
    for url, error in done.failed.items():
        places = ", ".join(dict.fromkeys(x.spec for x in everything if x.file.url == url))
        world.say(f"{places}: {error}")
    return EngineForgeError.exit_code if done.failed else 0


def read(paths: Sequence[Path]) -> list[Named]:
    """The files that specs name by their URLs; SpecError where a spec does not say which."""
    found: list[Named] = []
    problems: list[Problem] = []
    for path in spec_files(paths):
        document, wrong = load(str(path), path.read_bytes())
        if document is not None:
            wrong = wrong + [
                each for each in validate("spec", document) if each.path.split(".")[0] == "model"
            ]
        problems += wrong
        if document is None or wrong or not isinstance(document.value, dict):
            continue
        model = document.value.get("model")  # a spec that has none says so when it is checked
        source = None if model is None else parse_model(model).source
        if isinstance(source, UrlSource):
            at = Place(document, ("model", "source"))
            places = [at.below("url")]
            places += [at.below("external", i, "url") for i in range(len(source.external))]
            for file, place in zip((source.model, *source.external), places, strict=True):
                try:
                    urls.scheme(file.url)
                except UsageError as error:
                    problems.append(place.problem(str(error.args[0]), error.hint))
                found.append(Named(file=file, spec=str(path), place=place))
    if problems:
        raise SpecError(problems)
    return found


def lock(
    path: Path,
    everything: Sequence[Named],
    meant: Collection[str],
    *,
    update: Sequence[str] | None,
    environment: Mapping[str, str],
    partial: Path,
    said: Callable[[str], None],
) -> Done:
    """Write the lock file there: of the files `meant`, those that it lacks are added, and with
    `update` those that it names (all where that is empty) resolved anew; what is not among
    `everything` is taken out. What fails keeps the entry that it has, and the others are written.
    """
    old = locks.read(path)
    needed = {each.file.url for each in everything if each.file.sha256 is None}
    meant = needed.intersection(meant)
    anew = meant.intersection(update or meant) if update is not None else set()
    for url in update or ():
        if url not in meant:
            raise UsageError(
                f"no spec names '{urls.shown(url)}' without its sha256",
                hint="`engineforge lock SPEC --update URL`: the URLs to update come last",
            )
    found: list[Locked] = []
    failed: dict[str, EngineForgeError] = {}
    for url in sorted(url for url in meant if url in anew or url not in old):
        try:
            found.append(
                resolve(url, partial=partial, environment=environment, told=_telling(url, said))
            )
        except EngineForgeError as error:
            failed[url] = error
    new = old.changed(add=found, remove=set(old.entries) - needed)
    states = {url: _state(url, old, new) for url in {*old.entries, *new.entries}}
    written = locks.write(path, new) if new.entries or path.exists() else False
    return Done(lock=new, states=dict(sorted(states.items())), written=written, failed=failed)


def _state(url: str, old: Lock, new: Lock) -> str:
    if url not in old:
        return "added"
    if url not in new:
        return "removed"
    return "unchanged" if old.entries[url] == new.entries[url] else "changed"


def _telling(url: str, said: Callable[[str], None]) -> Callable[[int, int], None]:
    """Says once that something is fetched, as that may take long."""
    told = False

    def tell(_done: int, total: int) -> None:
        nonlocal told
        if not told:
            said(f"fetching {urls.shown(url)}" + f", {size(total)}" * bool(total))
        told = True

    return tell


def must_hold(paths: Sequence[Path]) -> None:
    """SpecError unless the lock file says of all that the specs name what it is, and of nothing
    else."""
    root = find_root(paths)
    if problems := _lacking(root, read([root]), whole=True):
        raise SpecError(problems)


def lacking(root: Path) -> list[Problem]:
    """What the lock file says too little or too much, of the specs that can be read; SpecError
    where it cannot be read itself."""
    everything: list[Named] = []
    whole = True
    for file in spec_files([root]):
        try:
            everything += read([file])
        except SpecError:  # which is for whoever plans it to say
            whole = False
    return _lacking(root, everything, whole=whole)


def _lacking(root: Path, everything: Sequence[Named], *, whole: bool) -> list[Problem]:
    missing, unused = _differences(everything, locks.read(root / LOCK))
    problems = list(_unpinned(everything, missing))
    for url in unused if whole else ():
        message = f"no spec names '{url}' any more"
        problems.append(
            Problem(file=str(root / LOCK), message=message, hint="`engineforge lock` takes it out")
        )
    return problems


def _differences(everything: Sequence[Named], lock: Lock) -> tuple[list[UrlFile], list[str]]:
    """What the lock file lacks, and what no spec needs."""
    needed = {each.file.url for each in everything if each.file.sha256 is None}
    unused = sorted(url for url in lock.entries if url not in needed)
    return locks.unpinned([each.file for each in everything], lock), unused


def _unpinned(everything: Sequence[Named], missing: Collection[UrlFile]) -> Iterator[Problem]:
    for each in everything:
        if each.file in missing:
            message = f"'{LOCK}' does not say which file this is"
            yield each.place.problem(message, "`engineforge lock` writes that down")


def _check(args: argparse.Namespace, path: Path, everything: Sequence[Named]) -> int:
    old = locks.read(path)
    missing, unused = _differences(everything, old)
    if args.json:
        world.print_json(
            {
                "lock": str(path),
                "missing": [urls.shown(each.url) for each in missing],
                "unused": unused,
            }
        )
    else:
        world.say_problems(_unpinned(everything, missing))
        for url in unused:
            world.say(f"{path}: no spec names '{url}' any more\nhint: engineforge lock")
        if not missing and not unused:
            print(f"{path}: {counted(len(old.entries), 'file')}, as the specs name them")
    return EngineForgeError.exit_code if missing or unused else 0


def _lines(path: Path, done: Done) -> list[str]:
    lines = []
    for url, state in done.states.items():
        if state == "unchanged":
            continue
        entry = done.lock.entries.get(url)
        what = f"  {entry.sha256[:12]}, {size(entry.size)}" if entry is not None else ""
        at = f", at {entry.revision[:12]}" if entry is not None and entry.revision else ""
        lines.append(f"{state:<8} {url}{what}{at}")
    how = "written" if done.written else "nothing to change"
    return [*lines, f"{path}: {counted(len(done.lock.entries), 'file')}, {how}"]


def _as_json(path: Path, done: Done) -> dict[str, object]:
    entries = locks.document_of(done.lock)
    return {
        "lock": str(path),
        "written": done.written,
        "files": [
            {"url": url, "state": state, **entries.get(url, {})}
            for url, state in done.states.items()
        ],
        "failed": [
            {"url": urls.shown(url), "error": str(error.args[0]), "hint": error.hint}
            for url, error in done.failed.items()
        ],
    }
