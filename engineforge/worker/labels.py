"""Labels of the nodes of a cluster: which ones a host has, and which ones a target needs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from engineforge.backends.gpu import HostGpu
from engineforge.backends.host import AMPERE
from engineforge.errors import HostUnfit
from engineforge.target import Target, Toolchain

# The names of GPU feature discovery, without its prefix `nvidia.com/`:
# https://github.com/NVIDIA/k8s-device-plugin/tree/main/docs/gpu-feature-discovery
_PRODUCT, _MEMORY, _SM, _MIG = "gpu.product", "gpu.memory", "sm", "mig.profile"
_DRIVER, _PLATFORM = "driver", "platform"
_BACKENDS = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx"}
_UNFIT = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST = 63
_NOT_MIG = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node that is alive: how many CPUs and GPUs it has in all, by its own account."""

    id: str
    name: str
    labels: Mapping[str, str]
    cpus: int
    gpus: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a node must have to build for a target: each label with one of these values, and a
    whole GPU where `gpu` says so."""

    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    gpu: bool = False

    def __str__(self) -> str:
        found = [f"{name}={' or '.join(values)}" for name, values in self.labels.items()]
        return ", ".join([*found, *(["a GPU"] if self.gpu else [])])

    def slots(self, node: Node) -> int:
        """How many builds a node takes at once; none where it has not these labels."""
        if any(node.labels.get(name) not in values for name, values in self.labels.items()):
            return 0
        return min(node.gpus, node.cpus) if self.gpu else node.cpus


def need_of(
    target: Target, builder: Mapping[str, object], capabilities: Iterable[str] = ()
) -> Need:
    """What a target needs, where its engine is built with these options. `capabilities` are the
    compute capabilities that nodes have: labels cannot be compared but for being equal."""
    chain = target.toolchain
    name = _BACKENDS[chain.backend]
    labels: dict[str, tuple[str, ...]] = {
        _PLATFORM: (target.platform,),
        name: (chain.version,),
        f"{name}.cuda": (chain.cuda.partition(".")[0],),
    }
    if (gpu := target.gpu) is None:
        return Need(labels=labels)
    level = builder.get("hardware_compatibility", "none")
    if level == "ampere_plus":
        fit = (each for each in capabilities if _number(each) >= _number(AMPERE))
        labels[_SM] = tuple(sorted({AMPERE, *fit}, key=_number))
    elif level == "same_compute_capability":
        labels[_SM] = (gpu.compute_capability,)
    else:
        labels[_PRODUCT] = (_fit(gpu.name),)
        labels[_SM] = (gpu.compute_capability,)
        labels[_MIG] = (_fit(gpu.mig_profile or _NOT_MIG),)
    if target.driver is not None:
        labels[_DRIVER] = (_fit(target.driver),)
    return Need(labels=labels, gpu=True)


def labels_of(
    platform: str, toolchains: Sequence[Toolchain], gpus: Sequence[HostGpu]
) -> dict[str, str]:
    """The labels of a host with these toolchains and GPUs. HostUnfit where its GPUs are of several
    kinds: a label has one value."""
    labels = {_PLATFORM: platform}
    for chain in toolchains:
        name = _BACKENDS[chain.backend]
        labels |= {name: chain.version, f"{name}.cuda": chain.cuda.partition(".")[0]}
    kinds = list(
        dict.fromkeys(
            (
                (_PRODUCT, _fit(each.gpu.name)),
                (_MEMORY, str(each.gpu.memory >> 20)),
                (_SM, each.gpu.compute_capability),
                (_MIG, _fit(each.gpu.mig_profile or _NOT_MIG)),
                (_DRIVER, _fit(each.driver)),
            )
            for each in gpus
        )
    )
    if len(kinds) > 1:
        named = " and ".join(f"'{dict(each)[_PRODUCT]}'" for each in kinds)
        raise HostUnfit(
            f"the GPUs of this host are not alike ({named}), and a node has one set of labels",
            hint="start a node for each kind, and show it those GPUs alone: CUDA_VISIBLE_DEVICES",
        )
    return labels | (dict(kinds[0]) if kinds else {})


def why_nobody(need: Need, target: str) -> str:
    """What to say where no node has what a target needs; `what_there_is` goes on from here."""
    return f"no node of the cluster has what target '{target}' needs: {need}"


def what_there_is(nodes: Sequence[Node]) -> str:
    """The kinds of nodes of a cluster, for people."""
    found = Counter(_shown(each) for each in nodes)
    if not found:
        return "it has no nodes"
    return "it has " + "; ".join(
        f"{count} node{'' if count == 1 else 's'} with {shown}"
        for shown, count in sorted(found.items())
    )


def _shown(node: Node) -> str:
    labels = [f"{k}={v}" for k, v in sorted(node.labels.items()) if not k.startswith("ray.io/")]
    kinds = {"CPU": node.cpus, "GPU": node.gpus}
    counts = [f"{count} {kind}{'' if count == 1 else 's'}" for kind, count in kinds.items()]
    return ", ".join([*(labels or ["no labels"]), *counts])


def _fit(text: str) -> str:
    """As a value of a label: https://docs.ray.io/en/latest/ray-core/scheduling/labels.html."""
    return _UNFIT.sub("-", text)[:_LONGEST].strip("-._")


def _number(capability: str) -> tuple[int, ...]:
    return tuple(int(part) for part in capability.split(".") if part.isdecimal())
