"""What a server calls to have its engines: `engineforge.pull` and `engineforge.follow`, with the
environment, the clock and the GPUs of this process."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from engineforge.backends import host
from engineforge.backends.library import FLAVOURS
from engineforge.cli import world
from engineforge.cli.libraries import visible_gpus
from engineforge.errors import UsageError
from engineforge.project.promotion import Environments
from engineforge.promotion.environment import Opened
from engineforge.promotion.following import follow as follow_spec
from engineforge.promotion.placing import Place
from engineforge.promotion.pulling import Pulled, Wanted
from engineforge.promotion.pulling import pull as pull_spec
from engineforge.promotion.selecting import Host

ENVIRONMENTS = "specs/environments.yaml"
_STEP = 0.2
"""Seconds in which a server that stops is heard."""


def pull(
    what: str,
    output: Path | str,
    *,
    environments: Path | str = ENVIRONMENTS,
    variant: str | None = None,
    target: str | None = None,
    gpu: int | str | None = None,
    load: Callable[[Path], Any] | None = None,
    no_overridden: bool = False,
    environ: Mapping[str, str] | None = None,
    said: Callable[[str], None] | None = None,
) -> Pulled:
    """Have the engine of `what`, ENVIRONMENT/SPEC, that runs on this host (or on its `gpu`, a
    number or UUID, or else the one for `target`) at `output`: a file, which gets its manifest
    beside it, or a folder, for `model.engine` and `manifest.json`.

    Signatures, gates and every byte are verified first, then the file is replaced in one step.
    `load` is called with the path of the new engine before: what it returns is `loaded` of the
    answer, and where it raises, LoadFailed is raised and the engine before stays. `said` is told
    what matters and is no error, by default the logger `engineforge`.
    """
    told = said or log
    opened = _open(what, environments, environ, told)
    wanted = _wanted(what, output, variant, target, gpu, no_overridden=no_overridden)
    return pull_spec(opened, wanted, now=world.now(), said=told, load=load)


def follow(
    what: str,
    output: Path | str,
    *,
    every: float = 60,
    stop: Callable[[], bool] = lambda: False,
    environments: Path | str = ENVIRONMENTS,
    variant: str | None = None,
    target: str | None = None,
    gpu: int | str | None = None,
    load: Callable[[Path], Any] | None = None,
    no_overridden: bool = False,
    environ: Mapping[str, str] | None = None,
    said: Callable[[str], None] | None = None,
) -> Iterator[Pulled]:
    """The same now and after every promotion and rollback, until `stop`, which is asked several
    times a second; asks the environment `every` so many seconds. What cannot be had is told to
    `said`, and the engine at `output` serves on."""
    told = said or log
    opened = _open(what, environments, environ, told)
    wanted = _wanted(what, output, variant, target, gpu, no_overridden=no_overridden)

    def sleep(seconds: float) -> None:
        end = time.monotonic() + seconds
        while not stop() and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, _STEP))

    return follow_spec(
        opened,
        wanted,
        every=every,
        sleep=sleep,
        stop=stop,
        now=world.now,
        said=told,
        load=load,
    )


def fall_back(output: Path | str) -> bool:
    """Have the engine before the last one at `output` again, until the next pull; False where none
    was kept. To have an environment serve an earlier engine is `engineforge rollback`."""
    return Place(Path(output)).fall_back()


def this_host(gpu: int | str | None = None) -> Host:
    """What can run here, on all GPUs or on one. UsageError for one that is not there."""
    gpus = visible_gpus()
    if gpu is not None:
        found = [each for each in gpus if str(gpu) in (str(each.index), each.uuid)]
        if not found:
            there = ", ".join(f"{each.index} ({each.uuid})" for each in gpus) or "none"
            raise UsageError(f"there is no GPU '{gpu}' here", hint=f"there is {there}")
        gpus = found
    chains = [chain for backend in FLAVOURS for chain in host.installed(backend)]
    return Host(platform=host.host_platform(), gpus=gpus, toolchains=chains)


def _open(
    what: str,
    environments: Path | str,
    environ: Mapping[str, str] | None,
    said: Callable[[str], None],
) -> Opened:
    name, slash, spec = what.partition("/")
    if not (name and slash and spec):
        raise UsageError(f"'{what}' is no ENVIRONMENT/SPEC", hint="such as staging/ocr-detector")
    file = Path(environments)
    if not file.is_file():
        raise UsageError(
            f"there is no file '{file}', which says where '{name}' is and whose keys count",
            hint="name it with --environments; it belongs to whoever pulls",
        )
    return Environments(file, os.environ if environ is None else environ, said).open(name)


def _wanted(
    what: str,
    output: Path | str,
    variant: str | None,
    target: str | None,
    gpu: int | str | None,
    *,
    no_overridden: bool,
) -> Wanted:
    if target is not None and gpu is not None:
        raise UsageError("a target is fetched for whichever GPU", hint="give --target or --gpu")
    return Wanted(
        spec=what.partition("/")[2],
        output=Path(output),
        host=this_host(gpu) if target is None else None,
        variant=variant,
        target=target,
        no_overridden=no_overridden,
    )


def log(text: str) -> None:
    """To the logger `engineforge`, which a program may set up as it likes."""
    logging.getLogger("engineforge").warning(text)
