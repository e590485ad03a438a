"""What runs before this one found out of the specs of a folder, and what this one leaves to the
next: which are up to date, told by stats alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from engineforge.digest import Digest
from engineforge.project.folder import TARGETS
from engineforge.project.glance import READING, Glance
from engineforge.project.plans import PlannedVariant
from engineforge.project.remembered import known
from engineforge.spec import LOCK
from engineforge.store.folders import FolderNews
from engineforge.store.index import Index
from engineforge.store.known import Known
from engineforge.store.local import LocalStore
from engineforge.store.projects import Projects
from engineforge.store.stats import Stat, stat_or_none


class Recall:
    """Of the specs in `root`. `shown` are the GPUs that the environment leaves; `glance` is one at
    them that was just made, where there is one."""

    def __init__(
        self, root: Path, store: LocalStore, index: Index, shown: str, glance: Glance | None
    ) -> None:
        self._root, self._store, self._index, self._shown = root, store, index, shown
        made = glance is not None and glance.is_of(str(root), str(store.root), shown)
        self._glance = glance if made else None
        self._forgotten = False
        self._anew: dict[str, tuple[Path, str]] = {}
        self._targets: tuple[Digest, Stat] | None = None
        self._gone: list[str] = []
        self._registers = False

    def close(self) -> None:
        if self._glance is not None:
            self._glance.close()

    def forget(self) -> None:
        """Trust nothing of what was remembered."""
        self._forgotten = True

    def holding(self, specs: Mapping[str, str], *, whole: bool) -> dict[str, Known]:
        """Of these specs, by their paths below the root, those that are as they were when they were
        up to date. `whole` where they are all that there are."""
        if self._glance is None:
            self._glance = Glance(str(self._root), str(self._store.root), self._shown)
        names = specs.values()
        found = {} if self._forgotten else self._glance.holding(frozenset(names))
        if whole:
            self._gone = sorted(self._glance.specs.difference(names))
        return found

    def targets(self) -> Digest:
        """What the targets are, for specs that have to be planned. OSError."""
        self._targets = self._index.hashed(self._root / TARGETS)
        return self._targets[0]

    def planned_anew(self, spec: str, file: Path, name: str) -> None:
        """A spec that was not as it was: what it comes to is remembered in the end."""
        self._anew[spec] = (file, name)

    def unregistered(self, variants: Sequence[PlannedVariant]) -> Sequence[PlannedVariant]:
        """Those whose plans may not be in the cache's record of this folder of specs."""
        if self._glance is None or not self._glance.registered:
            return variants
        anew = {name for _, name in self._anew.values()}
        return [each for each in variants if each.spec in anew]

    def registers(self) -> None:
        """The plans of all specs, as far as they are up to date, were put into that record now."""
        self._registers = True

    def finish(self, *, failed: bool) -> None:
        """Have the index remember what this run came to, which may have `failed` half-way."""
        glance = self._glance
        if glance is None:
            return
        specs: dict[str, Known | None] = dict.fromkeys(self._gone)
        targets, text = self._targets, glance.targets
        if targets is not None and self._index.remembers(*targets):
            text = " ".join(map(str, targets[1]))
            for spec, (file, name) in self._anew.items():
                made = None if failed else self._known(file, name, targets[0])
                if made is not None or spec in glance.specs:
                    specs[spec] = made
        if text is None:
            return
        registered = self._record() if self._registers and not failed else None
        if specs or registered not in (None, glance.record):
            self._index.know_folder(
                FolderNews(
                    root=glance.root,
                    reading=READING,
                    targets=text,
                    specs=specs,
                    registered=registered,
                    seen=glance.seen,
                )
            )

    def _known(self, file: Path, name: str, targets: Digest) -> Known | None:
        return known(
            self._store,
            self._index,
            file,
            name,
            root=self._root,
            targets=targets,
            lock=self._root / LOCK,
            shown=self._shown,
        )

    def _record(self) -> str | None:
        path = Projects(self._store.root).record(self._root)
        stat = stat_or_none(path)
        if stat is None or not self._index.settled(stat):
            return None
        name = path.relative_to(self._store.root)
        return f"{name} {' '.join(map(str, stat))}"


def below(root: Path, files: Sequence[str]) -> dict[str, str]:
    """Files as they are written from the root, by their paths: those that are below it."""
    if str(root) == ".":
        return {each: each for each in files if not each.startswith(("/", "../"))}
    above = f"{root}/"
    return {each: each[len(above) :] for each in files if each.startswith(above)}
