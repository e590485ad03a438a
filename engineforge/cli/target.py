"""`engineforge target`: the targets of a project, and one for this host."""

from __future__ import annotations

import argparse

from engineforge.backends import host
from engineforge.backends.capability import RTX_CAPABILITIES
from engineforge.cli import world
from engineforge.digest import document
from engineforge.errors import HostUnfit


def run(args: argparse.Namespace) -> int:
    if args.action == "detect":
        return _detect(args)
    specs = world.paths(args)
    with world.project(args, specs) as project:
        targets = project.targets()
    if args.json:
        world.print_json({name: document(target) for name, target in targets.items()})
        return 0
    for name, target in targets.items():
        where = target.gpu.name if target.gpu else ", ".join(target.compute_capabilities)
        unfit = host.why_not(target)
        print(f"{name}  {target.toolchain}  {where}  {target.platform}")
        print(f"  {'not built here: ' + unfit if unfit else 'can be built here'}")
    return 0


def _detect(args: argparse.Namespace) -> int:
    """A block for targets.yaml. TensorRT-RTX builds for GPUs that are not there, so all of them."""
    found = host.installed("tensorrt_rtx")
    if not found:
        raise HostUnfit(
            "no TensorRT-RTX is installed here",
            hint="python -m pip install 'engineforge[rtx]'",
        )
    # Turing (7.5) has no FP32 matrix products there, so most models would be refused.
    capabilities = [each for each in RTX_CAPABILITIES if each != "7.5"]
    blocks = {
        f"rtx-cuda{chain.cuda}": {
            "backend": chain.backend,
            "version": chain.version,
            "cuda": chain.cuda,
            "platform": host.host_platform(),
            "compute_capabilities": capabilities,
        }
        for chain in found
    }
    if args.json:
        world.print_json(blocks)
        return 0
    for name, block in blocks.items():
        print(f"{name}:")
        for key, value in block.items():
            shown = f"[{', '.join(value)}]" if isinstance(value, list) else f"'{value}'"
            print(f"  {key}: {shown}")
    return 0
