"""`engineforge target`: the targets of a project, and one for this host."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from engineforge.backends import host
from engineforge.backends.capability import RTX_CAPABILITIES
from engineforge.backends.gpu import HostGpu
from engineforge.cli import world
from engineforge.cli.libraries import visible_gpus
from engineforge.digest import document
from engineforge.errors import HostUnfit
from engineforge.target import Gpu, Toolchain, gpu_differences


def run(args: argparse.Namespace) -> int:
    if args.action == "detect":
        return _detect(args)
    specs = world.paths(args)
    with world.project(args, specs) as project:
        targets = project.targets()
    if args.json:
        world.print_json({name: document(target) for name, target in targets.items()})
        return 0
    gpus = cache(visible_gpus)
    for name, target in targets.items():
        where = target.gpu.name if target.gpu else ", ".join(target.compute_capabilities)
        unfit = host.why_not(target, gpus)
        print(f"{name}  {target.toolchain}  {where}  {target.platform}")
        print(f"  {'not built here: ' + unfit if unfit else 'can be built here'}")
    return 0


def _detect(args: argparse.Namespace) -> int:
    blocks, driver = detected()
    if args.json:
        world.print_json(blocks)
    else:
        print(text(blocks, driver), end="")
    return 0


def detected() -> tuple[dict[str, dict[str, Any]], str | None]:
    """Blocks for targets.yaml, and the driver of this host's GPUs; HostUnfit where nothing builds.

    TensorRT-RTX builds for GPUs that are not there, so all of them; classic TensorRT builds for
    those that are.
    """
    blocks = _rtx_blocks()
    classic = host.installed("tensorrt")
    gpus = _gpus_if_told(needed=bool(classic))
    for found, other in _classic_blocks(classic, gpus).items():
        blocks[found] = other
    if gpus and not classic:
        names = ", ".join(dict.fromkeys(f"'{each.gpu.name}'" for each in gpus))
        why = host.unclear("tensorrt") or "no classic TensorRT is installed here to build on it"
        world.say(f"note: this host has {names}, and {why}")
    if classic and not gpus:
        world.say(
            f"note: {', '.join(map(str, classic))} is installed here, and builds on a GPU, and "
            "this host shows none"
        )
    if not blocks:
        raise HostUnfit(
            "no TensorRT-RTX is installed here, and no classic TensorRT with a GPU to build on",
            hint="python -m pip install 'engineforge[rtx]'",
        )
    return blocks, gpus[0].driver if gpus else None


def text(blocks: Mapping[str, Mapping[str, Any]], driver: str | None) -> str:
    """Blocks as the text of a targets.yaml."""
    return "".join(
        f"{line}\n" for name, block in blocks.items() for line in _lines(name, block, driver)
    )


def _gpus_if_told(*, needed: bool) -> list[HostGpu]:
    """What TensorRT-RTX builds does not depend on a GPU that cannot be read."""
    try:
        return visible_gpus()
    except HostUnfit as error:
        if needed:
            raise
        world.say(f"note: {error}")
        return []


def _rtx_blocks() -> dict[str, dict[str, Any]]:
    # Turing (7.5) has no FP32 matrix products there, so most models would be refused.
    capabilities = [each for each in RTX_CAPABILITIES if each != "7.5"]
    return {
        f"rtx-cuda{chain.cuda}": {**_toolchain(chain), "compute_capabilities": capabilities}
        for chain in host.installed("tensorrt_rtx")
    }


def _toolchain(chain: Toolchain) -> dict[str, Any]:
    return {**document(chain), "platform": host.host_platform()}


def _classic_blocks(chains: list[Toolchain], gpus: list[HostGpu]) -> dict[str, dict[str, Any]]:
    """One for each toolchain and kind of GPU."""
    kinds: list[Gpu] = []
    for each in gpus:
        if all(gpu_differences(kind, each.gpu) for kind in kinds):
            kinds.append(each.gpu)
    blocks: dict[str, dict[str, Any]] = {}
    for chain in chains:
        for kind in kinds:
            name = _slug(kind) + (f"-cuda{chain.cuda}" if len(chains) > 1 else "")
            same = sum(1 for each in blocks if re.fullmatch(rf"{re.escape(name)}(-\d+)?", each))
            described = {key: value for key, value in document(kind).items() if value is not None}
            blocks[f"{name}-{same + 1}" if same else name] = {
                **_toolchain(chain),
                "gpu": described,
            }
    return blocks


def _slug(gpu: Gpu) -> str:
    """`NVIDIA GeForce RTX 4090` is `geforce-rtx-4090`."""
    words = [gpu.name.removeprefix("NVIDIA "), gpu.mig_profile or ""]
    slug = re.sub(r"[^a-z0-9._]+", "-", " ".join(words).lower()).strip("-._")
    return slug or "gpu"


def _lines(name: str, block: Mapping[str, Any], driver: str | None) -> Iterator[str]:
    yield f"{name}:"
    for key, value in block.items():
        if isinstance(value, Mapping):
            yield f"  {key}:"
            for field, each in value.items():
                yield f"    {field}: {_scalar(each)}"
            yield f"  # driver: {_scalar(driver)}  # only if another driver must mean a rebuild"
        elif isinstance(value, list):
            yield f"  {key}: [{', '.join(value)}]"
        else:
            yield f"  {key}: {_scalar(value)}"


def _scalar(value: object) -> str:
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return json.dumps(value)
