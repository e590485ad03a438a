"""Which toolchains a host has, by the packages that pip installs, and what it can build for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from engineforge.backends.gpu import HostGpu, visible
from engineforge.backends.host import host_platform, installed, matching, unclear, why_not
from engineforge.target import Target, Toolchain, gpu_differences
from tests.backends.machines import OTHER_UUID, h200, machine, partition
from tests.backends.packages import TENSORRT_8, TENSORRT_10, TENSORRT_11, Site


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.syspath_prepend(str(tmp_path))
    return Site(tmp_path)


def classic(version: str = "8.6.0", cuda: str = "12", **changes: object) -> Target:
    (found,) = visible(machine(h200()))
    target = Target(
        name="h200",
        toolchain=Toolchain(backend="tensorrt", version=version, cuda=cuda),
        platform=host_platform(),
        gpu=found.gpu,
        builder={},
    )
    return replace(target, **changes)  # type: ignore[arg-type]


def rtx() -> Target:
    (chain,) = installed("tensorrt_rtx")
    return Target(
        name="ada",
        toolchain=chain,
        platform=host_platform(),
        compute_capabilities=("8.9",),
        builder={},
    )


def test_this_host_has_tensorrt_rtx() -> None:
    assert [each.cuda for each in installed("tensorrt_rtx")] == ["13"]


@pytest.mark.parametrize(
    ("packages", "version", "cuda"),
    [
        (TENSORRT_8, "8.6.0", "12"),
        (TENSORRT_10, "10.13.3.9", "12"),
        (TENSORRT_11, "11.4.0.106", "13"),
        ({"tensorrt": ("8.6.1", []), "tensorrt_libs": TENSORRT_8["tensorrt"]}, "8.6.0", "12"),
        ({"tensorrt_cu12_bindings": ("10.16.1.11", [])}, "10.16.1.11", "12"),
    ],
)
def test_classic_tensorrt_is_known_by_the_packages_of_each_series(
    site: Site, packages: Mapping[str, tuple[str, list[str]]], version: str, cuda: str
) -> None:
    site.has(packages)
    assert installed("tensorrt") == [Toolchain(backend="tensorrt", version=version, cuda=cuda)]
    assert unclear("tensorrt") is None


def test_a_tensorrt_that_was_unpacked_is_known_by_its_files_and_not_imported(site: Site) -> None:
    site.unpacked("8.6.0", b"\0libcublas.so.12\0")
    (found,) = installed("tensorrt")
    assert (found.version, found.cuda) == ("8.6.0", "12")


def test_a_tensorrt_for_an_unknown_cuda_is_said_to_be_unclear(site: Site) -> None:
    site.has({"tensorrt": ("10.13.3.9", [])})
    site.unpacked("10.13.3.9")
    assert installed("tensorrt") == []
    why = why_not(classic("10.13.3.9"), list)
    assert why == unclear("tensorrt")
    assert why is not None
    assert "tensorrt_cu12_libs" in why


def test_two_for_two_cudas_in_one_folder_are_refused(site: Site) -> None:
    site.has(TENSORRT_10 | TENSORRT_11)
    assert "left to chance" in str(why_not(classic("10.13.3.9"), list))


def _no_gpu_is_asked_for() -> Sequence[HostGpu]:
    raise AssertionError("the GPUs of the host were asked for")


def test_a_target_of_tensorrt_rtx_never_asks_for_gpus() -> None:
    assert why_not(rtx(), _no_gpu_is_asked_for) is None


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (classic("10.13.3.9"), "pip install tensorrt-cu12==10.13.3.9"),
        (classic("8.6.1"), "pip install tensorrt==8.6.1"),
        (classic(cuda="11.8"), "tensorrt 8.6.0 (CUDA 11.8), and this host has"),
        (classic(platform="linux-riscv64"), "the target is for linux-riscv64"),
    ],
)
def test_what_the_packages_rule_out_asks_for_no_gpus(site: Site, target: Target, said: str) -> None:
    site.has(TENSORRT_8)
    assert said in str(why_not(target, _no_gpu_is_asked_for))


def test_without_tensorrt_its_command_to_install_is_told() -> None:
    why = str(why_not(classic("10.13.3.9", "12.9"), _no_gpu_is_asked_for))
    assert "is not installed here: python -m pip install tensorrt-cu12==10.13.3.9" in why


@pytest.mark.parametrize("cuda", ["12", "12.9"])
def test_a_cuda_is_compared_as_far_as_both_are_given(site: Site, cuda: str) -> None:
    site.has(TENSORRT_8)
    assert why_not(classic(cuda=cuda), lambda: visible(machine(h200()))) is None


def _why(site: Site, target: Target, gpus: list[HostGpu]) -> str:
    site.has(TENSORRT_8)
    why = why_not(target, lambda: gpus)
    assert why is not None
    assert matching(target, gpus) == []
    return why


def test_a_host_without_gpus_is_told_so(site: Site) -> None:
    assert "this host shows no NVIDIA GPU" in _why(site, classic(), [])


def test_a_gpu_of_another_kind_is_told_with_every_difference(site: Site) -> None:
    other = {
        **h200().attributes,
        "MULTIPROCESSOR_COUNT": 114,
        "GLOBAL_MEMORY_BUS_WIDTH": 5120,
        "ECC_ENABLED": 0,
    }
    found = visible(machine(h200(name="NVIDIA H100", attributes=other, memory=85 << 30)))
    assert _why(site, classic(), found) == (
        "the target is for 'NVIDIA H200', and this host has 'NVIDIA H100' "
        "(GPU-11111111-2222-3333-4444-555555555555), whose name is 'NVIDIA H100', expected "
        "'NVIDIA H200'; the number of SMs is 114, expected 132; memory is 91268055040 B, expected "
        "150110011392 B; memory bus width is 5120 bits, expected 6144 bits; ECC is off, expected on"
    )


def test_of_several_gpus_the_nearest_is_told(site: Site) -> None:
    far = h200(name="NVIDIA T4", attributes=dict.fromkeys(h200().attributes, 7))
    near = h200(uuid=OTHER_UUID, attributes={**h200().attributes, "ECC_ENABLED": 0})
    why = _why(site, classic(), visible(machine(far, near)))
    assert "(nearest of 2, GPU-99999999" in why
    assert why.endswith("whose ECC is off, expected on")


def test_a_partition_is_no_gpu_of_its_kind(site: Site) -> None:
    found = visible(machine(h200(), partition(), visible="MIG-aaaaaaaa"))
    assert "the MIG profile is '1g.18gb', expected none" in _why(site, classic(), found)


def test_a_pinned_driver_is_compared_and_an_unpinned_one_is_not(site: Site) -> None:
    found = visible(machine(h200()))
    assert matching(classic(), found) == found
    assert matching(classic(driver="580.159.04"), found) == found
    why = _why(site, classic(driver="570.86.15"), found)
    assert why.endswith("whose driver is 580.159.04, expected 570.86.15")


def test_a_driver_older_than_the_cuda_of_tensorrt_is_told() -> None:
    (found,) = visible(machine(h200()))
    old = replace(found, driver="525.60.13", cuda="12.0")
    assert matching(classic(cuda="12.9"), [old]) == [old]
    assert matching(classic("11.4.0.106", "13"), [old]) == []


@pytest.mark.parametrize(("factor", "fits"), [(0.992, True), (1.008, True), (0.98, False)])
def test_a_driver_may_keep_a_little_memory_for_itself(factor: float, fits: bool) -> None:
    target = classic()
    assert target.gpu is not None
    found = visible(machine(h200(memory=int(target.gpu.memory * factor))))
    assert matching(target, found) == (found if fits else [])


def test_gpus_differ_by_each_field() -> None:
    (one,) = visible(machine(h200()))
    (other,) = visible(machine(h200(), partition(), visible="MIG-aaaaaaaa"))
    told = [each.field for each in gpu_differences(one.gpu, other.gpu)]
    assert told == ["sm_count", "memory", "l2_cache", "mig_profile"]
    assert gpu_differences(one.gpu, one.gpu) == []


AMPERE = {**h200().attributes, "COMPUTE_CAPABILITY_MAJOR": 8, "COMPUTE_CAPABILITY_MINOR": 6}
TURING = {**AMPERE, "COMPUTE_CAPABILITY_MAJOR": 7, "COMPUTE_CAPABILITY_MINOR": 5}


@pytest.mark.parametrize(
    ("level", "attributes", "fits"),
    [
        ("none", AMPERE, False),
        ("ampere_plus", AMPERE, True),
        ("ampere_plus", TURING, False),
        ("same_compute_capability", AMPERE, False),
        ("same_compute_capability", {**h200().attributes, "ECC_ENABLED": 0}, True),
    ],
)
def test_an_engine_for_several_gpus_is_built_on_any_of_them(
    site: Site, level: str, attributes: Mapping[str, int], fits: bool
) -> None:
    site.has(TENSORRT_8)
    found = visible(machine(h200(name="NVIDIA Other", attributes=attributes)))
    options = {"hardware_compatibility": level}
    assert matching(classic(), found, options) == (found if fits else [])
    assert matching(classic(builder=options), found) == (found if fits else [])
    assert (why_not(classic(), lambda: found, options) is None) is fits


def test_the_gpus_are_not_looked_for_unless_the_caller_says_how(site: Site) -> None:
    site.has(TENSORRT_8)
    assert "no GPU was looked for" in str(why_not(classic()))
