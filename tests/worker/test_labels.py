"""Labels of nodes: what a host has, what a target needs, and what is said where nobody has it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engineforge.errors import HostUnfit
from engineforge.target import Gpu, Target, Toolchain
from engineforge.worker.labels import Need, Node, labels_of, need_of, what_there_is, why_nobody
from tests.gpus import H200, host_gpu

_CLASSIC = Toolchain(backend="tensorrt", version="10.13.3.9", cuda="12.9")
_MIG = replace(H200, mig_profile="1g.18gb")


def _target(gpu: Gpu | None = H200, driver: str | None = None) -> Target:
    return Target(
        name="h200",
        toolchain=_CLASSIC,
        platform="linux-x86_64",
        compute_capabilities=() if gpu else ("8.9",),
        gpu=gpu,
        driver=driver,
        builder={},
    )


def _node(labels: dict[str, str], *, cpus: int = 4, gpus: int = 1) -> Node:
    return Node(id="1", name="one", labels=labels, cpus=cpus, gpus=gpus)


def _labels(gpu: Gpu = H200) -> dict[str, str]:
    # A package of TensorRT may say a major version of CUDA alone.
    return labels_of("linux-x86_64", [replace(_CLASSIC, cuda="12")], [host_gpu(gpu)])


def test_labels_have_the_names_of_gpu_feature_discovery() -> None:
    assert _labels() == {
        "platform": "linux-x86_64",
        "tensorrt": "10.13.3.9",
        "tensorrt.cuda": "12",
        "gpu.product": "NVIDIA-H200",
        "gpu.memory": "143051",
        "sm": "9.0",
        "mig.profile": "none",
        "driver": "580.159.04",
    }


def test_a_target_needs_what_its_host_has() -> None:
    need = need_of(_target(driver="580.159.04"), {})
    assert need.slots(_node(_labels())) == 1


def test_a_whole_gpu_is_needed_for_each_build() -> None:
    need = need_of(_target(), {})
    assert need.slots(_node(_labels(), gpus=8, cpus=16)) == 8
    assert need.slots(_node(_labels(), gpus=0)) == 0


def test_a_target_without_a_gpu_needs_a_processor() -> None:
    need = need_of(_target(gpu=None), {})
    assert need.slots(_node(_labels(), gpus=0, cpus=4)) == 4


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("platform", "linux-aarch64"),
        ("tensorrt", "10.13.3.10"),
        ("tensorrt.cuda", "13"),
        ("gpu.product", "NVIDIA-H200-NVL"),
        ("sm", "8.9"),
        ("mig.profile", "1g.18gb"),
        ("driver", "570.1"),
    ],
)
def test_a_node_with_another_value_is_not_what_is_needed(name: str, value: str) -> None:
    need = need_of(_target(driver="580.159.04"), {})
    assert need.slots(_node({**_labels(), name: value})) == 0


def test_memory_is_no_reason_to_go_elsewhere() -> None:
    assert "gpu.memory" not in need_of(_target(), {}).labels


def test_a_part_of_a_gpu_is_another_kind() -> None:
    assert need_of(_target(_MIG), {}).slots(_node(_labels())) == 0
    assert need_of(_target(_MIG), {}).slots(_node(_labels(_MIG))) == 1


@pytest.mark.parametrize(
    ("level", "sm", "slots"),
    [
        ("ampere_plus", "8.0", 1),
        ("ampere_plus", "12.0", 1),
        ("ampere_plus", "7.5", 0),
        ("same_compute_capability", "9.0", 1),
        ("same_compute_capability", "8.9", 0),
    ],
)
def test_a_compatible_engine_is_built_on_any_gpu_that_it_is_for(
    level: str, sm: str, slots: int
) -> None:
    need = need_of(_target(), {"hardware_compatibility": level}, [sm])
    there = {**_labels(), "gpu.product": "another", "sm": sm}
    assert need.slots(_node(there)) == slots


def test_gpus_of_two_kinds_have_no_labels_in_common() -> None:
    gpus = [host_gpu(), host_gpu(_MIG, 1)]
    with pytest.raises(HostUnfit, match="not alike"):
        labels_of("linux-x86_64", [], gpus)


def test_what_is_needed_is_named_where_nobody_has_it() -> None:
    assert why_nobody(Need(labels={"pool": ("b", "c")}, gpu=True), "h200") == (
        "no node of the cluster has what target 'h200' needs: pool=b or c, a GPU"
    )


def test_what_a_cluster_has_is_counted_by_kinds_and_without_what_ray_adds() -> None:
    nodes = [_node({"pool": "a", "ray.io/node-id": "f00"}), _node({"pool": "a"}), _node({}, gpus=0)]
    assert what_there_is(nodes) == (
        "it has 1 node with no labels, 4 CPUs, 0 GPUs; 2 nodes with pool=a, 4 CPUs, 1 GPU"
    )


def test_a_cluster_without_nodes_says_so() -> None:
    assert what_there_is([]) == "it has no nodes"
