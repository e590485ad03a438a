"""`engineforge doctor`: what this host can build, and why not the rest."""

from __future__ import annotations

import argparse
import platform
from pathlib import Path
from typing import Any

from engineforge.backends import host
from engineforge.backends.gpu import HostGpu
from engineforge.cli import libraries, world
from engineforge.digest import document
from engineforge.errors import EngineForgeError, HostUnfit, SpecError
from engineforge.project.folder import TARGETS
from engineforge.target import Target


def run(args: argparse.Namespace) -> int:
    found: dict[str, Any] = {
        "platform": host.host_platform(),
        "python": platform.python_version(),
        "backends": {},
        "unclear": host.unclear("tensorrt"),
        "gpus": [],
        "gpus_unreadable": None,
        "targets": {},
        "targets_unreadable": None,
        "unknown_settings": [],
    }
    for backend in ("tensorrt_rtx", "tensorrt"):
        chains = host.installed(backend)
        found["backends"][backend] = [str(chain) for chain in chains]
        if backend == "tensorrt_rtx" and chains:
            found["unknown_settings"] = libraries.unknown_settings(backend)
    gpus: list[HostGpu] | HostUnfit
    try:
        gpus, others = libraries.visible_gpus_and_others()
        found["gpus"] = [{**document(each), "others": others[each.uuid]} for each in gpus]
    except HostUnfit as error:
        gpus, found["gpus_unreadable"] = error, str(error)
    specs = world.paths(args)
    if all(path.exists() for path in specs):
        try:
            with world.project(args, specs) as project:
                targets = project.targets()
            found["targets"] = {name: _why_not(each, gpus) for name, each in targets.items()}
        except EngineForgeError as error:
            found["targets_unreadable"] = str(error)
    if args.json:
        world.print_json(found)
    else:
        _print(found, specs)
    classic = bool(found["backends"]["tensorrt"])
    builds = found["backends"]["tensorrt_rtx"] or (classic and found["gpus"])
    unreadable = classic and found["gpus_unreadable"]
    can = [name for name, why in found["targets"].items() if why is None]
    if found["targets_unreadable"]:
        return SpecError.exit_code
    unfit = not builds or unreadable or (found["targets"] and not can)
    return HostUnfit.exit_code if unfit else 0


def _why_not(target: Target, gpus: list[HostGpu] | HostUnfit) -> str | None:
    def known() -> list[HostGpu]:
        if isinstance(gpus, HostUnfit):
            raise gpus
        return gpus

    try:
        return host.why_not(target, known)
    except HostUnfit as error:
        return str(error.args[0])


def _print(found: dict[str, Any], specs: list[Path]) -> None:
    print(f"host       {found['platform']}, Python {found['python']}")
    for backend, chains in found["backends"].items():
        print(f"{backend:12} {', '.join(chains) or 'not installed'}")
        if not chains and backend == "tensorrt_rtx":
            print("             python -m pip install 'engineforge[rtx]'")
    if found["unclear"]:
        print(f"warning    {found['unclear']}")
    for name in found["unknown_settings"]:
        print(f"warning    this TensorRT-RTX has '{name}', which no option stands for")
    for each in found["gpus"]:
        _print_gpu(each)
    if found["gpus_unreadable"]:
        print(f"GPUs       {found['gpus_unreadable']}")
    elif not found["gpus"]:
        print("GPUs       none that a driver shows and CUDA_VISIBLE_DEVICES leaves")
    if found["targets_unreadable"]:
        print(f"targets    {found['targets_unreadable']}")
    elif not found["targets"]:
        print(f"targets    none: no '{TARGETS}' at {', '.join(map(str, specs))}")
    for name, why in found["targets"].items():
        print(f"target     {name}: {'not built here: ' + why if why else 'can be built here'}")


def _print_gpu(found: dict[str, Any]) -> None:
    gpu = found["gpu"]
    partition = f", MIG {gpu['mig_profile']}" if gpu["mig_profile"] else ""
    print(
        f"GPU {found['index']:<6} {gpu['name']}{partition}, compute capability "
        f"{gpu['compute_capability']}, {gpu['memory'] / 2**30:.1f} GiB, driver {found['driver']} "
        f"(CUDA {found['cuda']}), {found['uuid']}"
    )
    if found["others"] is None:
        print("           what runs on it cannot be read")
    for each in found["others"] or ():
        memory = "" if each["memory"] is None else f", {each['memory'] / 2**30:.1f} GiB"
        busy = "" if each["utilisation"] is None else f", {each['utilisation']} % of its SMs"
        print(f"           busy with {each['name'] or 'a process'} ({each['pid']}{memory}{busy})")
