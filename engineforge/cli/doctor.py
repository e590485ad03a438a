"""`engineforge doctor`: what this host can build, and why not the rest."""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

from engineforge.backends import host
from engineforge.cli import world
from engineforge.errors import EngineForgeError, HostUnfit
from engineforge.project.folder import TARGETS


def run(args: argparse.Namespace) -> int:
    found: dict[str, Any] = {
        "platform": host.host_platform(),
        "python": platform.python_version(),
        "backends": {},
        "targets": {},
        "unknown_settings": [],
    }
    for backend in ("tensorrt_rtx", "tensorrt"):
        chains = host.installed(backend)
        found["backends"][backend] = [str(chain) for chain in chains]
        if backend == "tensorrt_rtx" and chains:
            found["unknown_settings"] = _unknown_settings()
    specs = world.paths(args)
    if all(path.exists() for path in specs):
        try:
            with world.project(args, specs) as project:
                targets = project.targets()
            found["targets"] = {name: host.why_not(each) for name, each in targets.items()}
        except EngineForgeError as error:
            world.say(f"engineforge: {error}")
    if args.json:
        world.print_json(found)
    else:
        _print(found, specs)
    can = [name for name, why in found["targets"].items() if why is None]
    unfit = not found["backends"]["tensorrt_rtx"] or (found["targets"] and not can)
    return HostUnfit.exit_code if unfit else 0


def _unknown_settings() -> list[str]:
    """Settings of the installed TensorRT-RTX that no option stands for, so that no key has them."""
    from engineforge.worker.process import Child

    with tempfile.TemporaryDirectory() as folder:
        child = Child(Path(folder) / "doctor.log", os.environ)
        try:
            return list(child.ask({"op": "unknown-settings", "backend": "tensorrt_rtx"})["names"])
        except EngineForgeError as error:
            said = "".join(f"\n  {line}" for line in child.log_tail())
            raise HostUnfit(
                f"TensorRT-RTX is installed and does not load: {error}{said}"
            ) from error
        finally:
            child.close()


def _print(found: dict[str, Any], specs: list[Path]) -> None:
    print(f"host       {found['platform']}, Python {found['python']}")
    for backend, chains in found["backends"].items():
        print(f"{backend:12} {', '.join(chains) or 'not installed'}")
        if not chains and backend == "tensorrt_rtx":
            print("             python -m pip install 'engineforge[rtx]'")
    for name in found["unknown_settings"]:
        print(f"warning    this TensorRT-RTX has '{name}', which no option stands for")
    if not found["targets"]:
        print(f"targets    none: no '{TARGETS}' at {', '.join(map(str, specs))}")
    for name, why in found["targets"].items():
        print(f"target     {name}: {'not built here: ' + why if why else 'can be built here'}")
