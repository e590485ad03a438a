"""What runs before this one found out of the specs of a folder, and what this one leaves to the
next: which are up to date, told by stats alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from engineforge.digest import Digest
from engineforge.project.folder import TARGETS, spec_name
from engineforge.project.glance import READING, Glance
from engineforge.project.plans import PlannedVariant
from engineforge.project.remembered import known, of_known, up_to_date
from engineforge.spec import LOCK
from engineforge.store.folders import FolderNews, can_name_a_folder
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
        if glance is not None and not glance.is_of(str(root), str(store.root), shown):
            glance.close()
            glance = None
        self._glance = glance
        self._forgotten = False
        self._specs: Mapping[str, str] = {}
        self._holding: dict[str, Known] = {}
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

    def look(self, files: Sequence[str], *, whole: bool) -> None:
        """See which of these specs are as they were when they were up to date. `whole` where they
        are all that there are. OSError where the targets cannot be read."""
        if self._glance is None:
            self._glance = Glance(str(self._root), str(self._store.root), self._shown)
        self._specs = _below(self._root, files)
        names = frozenset(self._specs.values())
        self._holding = {} if self._forgotten else self._glance.holding(names)
        if whole:
            self._gone = sorted(self._glance.specs - names)
        if len(self._holding) < len(files):
            self._targets = self._index.hashed(self._root / TARGETS)

    def name(self, file: str) -> str:
        """What a spec is called."""
        spec = self._specs.get(file)
        return spec_name(Path(file), self._root) if spec is None else spec.rpartition(".")[0]

    def planned(self, file: str, name: str) -> list[PlannedVariant] | None:
        """The variants of a spec that was looked at; None where it has to be read. OSError."""
        spec = self._specs.get(file)
        if spec is not None and (holds := self._holding.pop(spec, None)) is not None:
            return of_known(holds, name)
        if self._targets is None:
            return None
        if spec is not None:
            # What it comes to is remembered in the end.
            self._anew[spec] = (Path(file), name)
        return up_to_date(
            self._store,
            self._index,
            Path(file),
            name,
            targets=self._targets[0],
            lock=self._root / LOCK,
            shown=self._shown,
        )

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
        if glance is None or not can_name_a_folder(glance.root):
            return
        specs: dict[str, Known | None] = dict.fromkeys(self._gone)
        targets, text = self._targets, glance.targets
        if targets is not None and not self._index.remembers(*targets):
            targets = None  # of what cannot be told, nothing can be known
        if targets is not None:
            text = " ".join(map(str, targets[1]))
        for spec, (file, name) in self._anew.items():
            made = None if failed or targets is None else self._known(file, name, targets[0])
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


def _below(root: Path, files: Sequence[str]) -> dict[str, str]:
    """Files as they are written from the root, by their paths: those that are below it."""
    above = "" if str(root) == "." else f"{root}/"
    return {
        each: each[len(above) :]
        for each in files
        if each.startswith(above)
        and not (each.startswith(("/", "../")) and not above)
        and (each.isascii() or _is_text(each))
    }


def _is_text(name: str) -> bool:
    """A name of other bytes is called otherwise (`spec_name`)."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
