"""`engineforge run`: an engine run once, on arrays in files."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engineforge.cli import world
from engineforge.errors import EngineForgeError, SpecError, UsageError
from engineforge.store.local import ENGINE, MANIFEST


def run(args: argparse.Namespace) -> int:
    inputs, archives = _inputs(args.input)
    outputs, folder = _outputs(args.output)
    engine = find(args)
    found = ask(
        args,
        {
            "op": "run",
            "engine": engine,
            "inputs": inputs,
            "archives": archives,
            "outputs": outputs,
            "folder": folder,
            "profile": args.profile,
        },
    )
    if args.json:
        world.print_json(found)
        return 0
    for name, each in found["outputs"].items():
        print(f"{name}  {each['dtype']} {each['shape']}{_told(each)}")
    return 0


def find(args: argparse.Namespace) -> Path:
    """The entry folder or engine file that is meant: by path, or the one variant of specs that is
    up to date; UsageError where it is not one, EngineForgeError where it is not built."""
    path = Path(args.what)
    is_entry = any((path / name).exists() for name in (ENGINE, MANIFEST))
    specs = path.suffix in (".yaml", ".yml") or (path.is_dir() and not is_entry)
    if not specs:
        if not path.exists():
            raise UsageError(f"'{path}' is no spec, no folder of an entry, and no engine file")
        return path
    with world.project(args, [path]) as project:
        plan = project.plan([path], world.selection(args))
        world.say_notes(plan.notes)
        if plan.problems:
            raise SpecError(plan.problems)
        if len(plan.variants) != 1:
            labels = ", ".join(each.label for each in plan.variants) or "none"
            raise UsageError(
                f"expected one variant, found {len(plan.variants)}: {labels}",
                hint="choose one with --variant and --target",
            )
        (variant,) = plan.variants
        entry = None if variant.engine is None else project.store.get("engine", variant.engine)
        if entry is None:
            raise EngineForgeError(
                f"{variant.label} is not built, or not up to date",
                hint=f"`engineforge build {path}` builds it, `engineforge plan --explain` says why",
            )
        return entry.path


def ask(args: argparse.Namespace, request: Mapping[str, object]) -> dict[str, Any]:
    """What a child process answers: TensorRT may end a process, and this one has a message to
    give. The errors of the runtime: what must not be loaded, then what this host lacks."""
    from engineforge.worker.process import Child, Crashed

    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / f"{request['op']}.log"
        child = Child(log, os.environ)
        whole = {**request, "sha256": args.sha256, "device": args.gpu, "log": log}
        try:
            return child.ask({**whole, "plugins": [Path(each) for each in args.plugin]})
        except Crashed as error:
            said = "".join(f"\n  {line}" for line in child.log_tail())
            raise EngineForgeError(f"{error}{said}") from error
        finally:
            child.close()


def _inputs(given: Sequence[str]) -> tuple[dict[str, Path], list[Path]]:
    """`NAME=FILE.npy` and `FILE.npz`: files by input, and archives."""
    by_name, archives = {}, []
    for each in given:
        name, _, file = each.rpartition("=")
        path = Path(file)
        if not path.is_file():
            raise UsageError(f"--input {each}: there is no file '{path}'")
        if name:
            by_name[name] = path
        elif path.suffix == ".npz":
            archives.append(path)
        else:
            raise UsageError(f"--input {each}: expected NAME=FILE.npy or FILE.npz")
    return by_name, archives


def _outputs(given: Sequence[str]) -> tuple[dict[str, Path], Path | None]:
    """`NAME=FILE.npy` and a folder, which is made: files by output, and where all go."""
    by_name: dict[str, Path] = {}
    folder = None
    for each in given:
        name, _, file = each.rpartition("=")
        path = Path(file)
        if not file:
            raise UsageError(f"--output {each}: expected NAME=FILE.npy, or a folder")
        if name:
            if not path.parent.is_dir():
                raise UsageError(f"--output {each}: there is no folder '{path.parent}'")
            by_name[name] = path
        elif path.suffix in (".npy", ".npz") or (path.exists() and not path.is_dir()):
            raise UsageError(f"--output {each}: expected NAME=FILE.npy, or a folder")
        else:
            folder = path
    return by_name, folder


def _told(output: Mapping[str, Any]) -> str:
    """The rest of an output's line: what its values are, and where they went."""
    told = ""
    if output.get("mean") is not None:
        told = f"  from {output['min']:.6g} to {output['max']:.6g}, mean {output['mean']:.6g}"
    if not output["finite"]:
        told += "  not all finite"
    return f"{told}  → {output['path']}" if "path" in output else told
