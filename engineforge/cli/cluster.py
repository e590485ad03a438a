"""`engineforge cluster`: what a cluster has to know of this host."""

from __future__ import annotations

import argparse

from engineforge.backends import host
from engineforge.backends.library import FLAVOURS
from engineforge.cli import world
from engineforge.cli.libraries import visible_gpus
from engineforge.errors import HostUnfit
from engineforge.target import Toolchain
from engineforge.worker.labels import labels_of


def run(args: argparse.Namespace) -> int:
    toolchains = [found[0] for name in FLAVOURS if (found := _only_one(name))]
    labels = labels_of(host.host_platform(), toolchains, visible_gpus())
    if args.json:
        world.print_json(labels)
    else:
        print(",".join(f"{name}={value}" for name, value in labels.items()))
    if not toolchains:
        world.say("note: neither TensorRT nor TensorRT-RTX is installed here: it builds nothing")
    return 0


def _only_one(backend: str) -> list[Toolchain]:
    found = host.installed(backend)
    if len(found) > 1:
        both = " and ".join(map(str, found))
        raise HostUnfit(f"{both} are installed, in one folder: which one loads is left to chance")
    return found
