"""What a program calls to plan and build: `engineforge.load_specs`, with the environment, the clock
and the memory of this process."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from engineforge.cli import where, world
from engineforge.cli.serving import log
from engineforge.project.folder import find_root
from engineforge.project.specs import Push, Specs


def load_specs(
    paths: Path | str | Sequence[Path | str] = "specs",
    *,
    cache: Path | str | None = None,
    remote: str | None = None,
    push: Push | None = None,
    no_remote: bool = False,
    gpus: str | None = None,
    environ: Mapping[str, str] | None = None,
    said: Callable[[str], None] | None = None,
) -> Specs:
    """The specs in these files and folders, to be planned, checked and built.

    `cache` is where engines are kept, else `$ENGINEFORGE_CACHE`, else `cache` beside the specs;
    `remote` the store that machines share, else `$ENGINEFORGE_REMOTE`, else what `engineforge.yaml`
    says (`no_remote`: none), and `push` who adds to it. `gpus` leaves builds some of the GPUs, as
    CUDA_VISIBLE_DEVICES does. `environ` stands for the environment of this process. `said` is told
    what matters and is no error, by default the logger `engineforge`.

    Nothing is read yet. UsageError where a path does not exist, or no folder above has targets.
    """
    given = [Path(each) for each in ([paths] if isinstance(paths, str | Path) else paths)]
    environment = world.shown(os.environ if environ is None else environ, gpus)
    root = find_root(given)
    folder = where.cache(None if cache is None else str(cache), environment, str(root))
    return Specs(
        given,
        root=root,
        cache=Path(folder),
        world=world.outside(environment, said or log),
        remote=remote,
        push=push,
        no_remote=no_remote,
    )
