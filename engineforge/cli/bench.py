"""`engineforge bench`: how fast an engine is, as `trtexec` would say. What is measured of an engine
in a cache is measured on a leased GPU, and kept there."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from engineforge.backends.gpu import HostGpu
from engineforge.cli import run as run_command
from engineforge.cli import world
from engineforge.digest import Digest
from engineforge.errors import EngineForgeError, HostUnfit, UsageError
from engineforge.project.checking import bench
from engineforge.project.project import Project
from engineforge.store.local import ENGINE, Entry, LocalStore
from engineforge.worker.conditions import Conditions
from engineforge.worker.latency import Asked, Subject

_ROWS = {
    "latency": "latency",
    "h2d": "copies in",
    "compute": "compute",
    "d2h": "copies out",
    "enqueue": "enqueue (host)",
}
_COLUMNS = ("min", "mean", "median", "p90", "p95", "p99", "max")
_CONDITIONS = ("sm_clock_mhz", "sm_clock_max_mhz", "temperature_c", "power_mw", "throttled_by")
_MOST_LAYERS = 40


def run(args: argparse.Namespace) -> int:
    asked = asked_for(args)
    engine = run_command.find(args)
    entry = entry_of(engine)
    found: Mapping[str, Any]
    kept: dict[str, Any] | None
    if entry is None:
        found = run_command.ask(args, {"op": "bench", "engine": engine, "measure": asked.request()})
        kept = None
    else:
        found, kept = _kept(args, entry, asked)
    if args.json:
        world.print_json({**found, "kept": kept})
        return 0
    for line in lines(found):
        print(line)
    if kept is not None:
        print(f"\nkept        {kept['path']}, number {kept['number']} of this engine on such a GPU")
    for note in found["notes"]:
        world.say(f"note: {note}")
    if kept is None:
        world.say(
            "note: this engine is in no cache: nothing was kept, and nothing kept other builds "
            "and measurements off the GPU meanwhile"
        )
    return 0


def asked_for(args: argparse.Namespace) -> Asked:
    """What the options ask to measure; without any, the same as a latency check."""
    shapes = _shapes(args.shapes)
    profile = args.profile
    if profile is None and not shapes:
        profile = 0
    return Asked(
        profile=profile,
        at=args.at,
        shapes=shapes,
        warm_up_ms=args.warm_up,
        duration_s=args.duration,
        iterations=args.iterations,
        streams=args.streams,
        cuda_graph=args.cuda_graph,
        transfers=not args.no_transfers,
        layers=args.layers,
    )


def entry_of(engine: Path) -> Entry | None:
    """The entry of a cache that this folder, or the engine file in it, is; None for all else."""
    folder = (engine if engine.is_dir() else engine.parent).resolve()
    if not engine.is_dir() and engine.name != ENGINE:
        return None
    try:
        key = Digest(f"sha256:{folder.name}")
        store = LocalStore(folder.parents[3], world.say)
    except (ValueError, IndexError):
        return None
    return store.get("engine", key) if store.entry_path("engine", key) == folder else None


def _kept(
    args: argparse.Namespace, entry: Entry, asked: Asked
) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """What was measured of an engine in a cache, and where that is kept."""
    from engineforge.runtime.cuda import device_count

    device_count()  # says best why there is no GPU
    stored = entry.manifest.files[ENGINE].sha256
    if args.sha256 not in (None, stored):
        raise EngineForgeError(f"'{entry.path}' has {stored}, and {args.sha256} was asked for")
    record = entry.manifest.record
    subject = Subject(
        label="{spec}/{variant}@{target}".format(**record) if "spec" in record else stored.short,
        engine=entry,
        asked=asked,
        plugins=tuple(str(Path(each).absolute()) for each in args.plugin),
    )
    cache = entry.path.parents[3]
    with Project(cache, cache, os.environ, said=world.say) as project:
        gpu = chosen(project.gpus(), args.gpu)
        kept = bench(project, subject, gpu, _conditions(cache), _waiting(gpu))
    manifest = kept.entry.manifest
    about = {"path": str(kept.entry.path), "key": manifest.key, "number": kept.number}
    return kept.measured, about


def chosen(gpus: Sequence[HostGpu], which: str) -> HostGpu:
    """A GPU by its number among the visible ones, or by its UUID; HostUnfit where it is not
    there."""
    for gpu in gpus:
        if which in (str(gpu.index), gpu.uuid):
            return gpu
    names = ", ".join(f"{gpu.index} ({gpu.uuid})" for gpu in gpus) or "none"
    raise HostUnfit(f"there is no GPU '{which}': this host shows {names}")


def _conditions(cache: Path) -> Conditions:
    return Conditions(
        jobs=1,
        keep_going=False,
        timeout=None,
        memory=None,
        cold=False,
        environment=os.environ,
        about=world.about(cache),
        now=world.now,
        observe=lambda _: None,
    )


def _waiting(gpu: HostGpu) -> Callable[[str], None]:
    said: set[str] = set()

    def told(holder: str) -> None:
        if holder not in said:
            said.add(holder)
            world.say(f"waiting for {holder}, which has the GPU {gpu.uuid}")

    return told


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """What was measured, for people."""
    shapes = ", ".join(f"{n} {'x'.join(map(str, s))}" for n, s in found["shapes"].items())
    how = [f"profile {found['profile']}", f"{found['streams']} stream"]
    how[1] += "s" if found["streams"] > 1 else ""
    how += ["CUDA graph"] * found["cuda_graph"] + ["no copies"] * (not found["transfers"])
    gpu = found["gpu"]
    yield f"engine      {found['engine']} ({found['backend']})"
    yield f"gpu         {gpu['name']} ({gpu['uuid']})"
    yield f"inputs      {shapes}"
    yield f"how         {', '.join(how)}"
    yield f"queries     {found['queries']} in {found['seconds']:.2f} s"
    yield f"throughput  {found['throughput_qps']:.1f} queries/s"
    yield ""
    yield f"{'ms':15}" + "".join(f"{column:>10}" for column in _COLUMNS)
    for part, name in _ROWS.items():
        times = found[f"{part}_ms"]
        yield f"{name:15}" + "".join(f"{times[column]:10.4f}" for column in _COLUMNS)
    for when in ("idle", "start", "end"):
        if when in gpu:
            told = (f"{key} {_value(gpu[when].get(key))}" for key in _CONDITIONS)
            yield f"gpu {when:11} {', '.join(told)}"
    layers = sorted(found.get("layers", ()), key=lambda each: -each["ms"])
    if layers:
        yield ""
        yield f"{'ms':>10} {'share':>7}  layer"
    for each in layers[:_MOST_LAYERS]:
        yield f"{each['ms']:10.4f} {each['share']:7.1%}  {each['name']}"
    if len(layers) > _MOST_LAYERS:
        yield f"and {len(layers) - _MOST_LAYERS} more: --json has all"


def _value(value: object) -> str:
    if isinstance(value, list):
        return " and ".join(map(str, value)) or "nothing"
    return "unknown" if value is None else str(value)


def _shapes(given: Sequence[str]) -> dict[str, list[int]]:
    """`NAME=8x3x224x224`, several with commas or options between them."""
    found = {}
    for each in (part for text in given for part in text.split(",")):
        name, _, dims = each.rpartition("=")
        if not name or not re.fullmatch(r"\d+(x\d+)*|", dims):
            raise UsageError(f"--shapes {each}: expected NAME=8x3x224x224")
        found[name] = [int(dim) for dim in dims.split("x") if dim]
    return found
