"""What is read of a host's GPUs, and what is said where it cannot be."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engineforge.backends.gpu import (
    GpuUnreadable,
    Libraries,
    conditions,
    gpus,
    other_processes,
    read_gpus,
    visible,
)
from engineforge.digest import document
from engineforge.target import Gpu
from tests.backends.machines import (
    H200_UUID,
    MIG_UUID,
    OTHER_UUID,
    Driver,
    Status,
    h200,
    machine,
    partition,
)

GPU = f"GPU-{H200_UUID}"
MIG = f"MIG-{MIG_UUID}"


def test_an_h200_is_read_field_by_field() -> None:
    (found,) = visible(machine(h200()))
    assert (found.index, found.uuid) == (0, GPU)
    assert (found.driver, found.cuda) == ("580.159.04", "13.0")
    assert found.gpu == Gpu(
        name="NVIDIA H200",
        compute_capability="9.0",
        sm_count=132,
        memory=150110011392,
        memory_bus_width=6144,
        l2_cache=62914560,
        shared_memory_per_block=232448,
        shared_memory_per_sm=233472,
        ecc=True,
        mig_profile=None,
    )


def test_a_gpu_without_ecc_is_not_one_whose_ecc_is_unknown() -> None:
    off = {**h200().attributes, "ECC_ENABLED": 0}
    (found,) = visible(machine(h200(attributes=off)))
    assert found.gpu.ecc is False


def test_only_what_the_environment_leaves_is_visible_and_counted() -> None:
    both = [h200(), h200(uuid=OTHER_UUID)]
    (found,) = visible(machine(*both, visible="1"))
    assert (found.index, found.uuid) == (0, f"GPU-{OTHER_UUID}")
    assert [each.uuid for each in visible(machine(*both))] == [GPU, f"GPU-{OTHER_UUID}"]


def test_where_all_are_hidden_there_is_none() -> None:
    assert visible(machine(h200(), visible="")) == []


def test_a_mig_instance_has_its_own_uuid_profile_and_size() -> None:
    (found,) = visible(machine(h200(), partition(), visible=MIG))
    assert found.uuid == MIG
    assert found.gpu.name == "NVIDIA H200"
    assert found.gpu.mig_profile == "1g.18gb"
    assert (found.gpu.sm_count, found.gpu.memory) == (16, 17179869184)


def test_cuda_13_has_the_new_uuid_under_the_plain_name() -> None:
    class Driver13:
        """`cuda.bindings.driver` 13: no name ends in _v2."""

        def __init__(self, inner: Driver) -> None:
            self._inner = inner

        def __getattr__(self, name: str) -> Any:  # noqa: ANN401
            if name.endswith("_v2"):
                raise AttributeError(name)
            return getattr(self._inner, "cuDeviceGetUuid_v2" if name.endswith("Uuid") else name)

    there = machine(h200(), partition(), visible=MIG)
    (found,) = visible(Libraries(Driver13(there.driver), there.nvml))
    assert found.uuid == MIG


def test_a_partition_whose_profile_nvml_does_not_tell_is_an_error() -> None:
    nameless = partition()
    nameless.nvml_name = "NVIDIA H200"
    with pytest.raises(GpuUnreadable, match="'mig_profile' of GPU 0"):
        visible(machine(h200(), nameless, visible=MIG))


@pytest.mark.parametrize(
    ("call", "field"),
    [
        ("cuDeviceGetName", "name"),
        ("cuDeviceGetUuid_v2", "uuid"),
        ("cuDeviceTotalMem", "memory"),
        ("cuDeviceGetAttribute", "compute_capability"),
    ],
)
def test_a_field_that_cuda_does_not_give_is_an_error_that_names_it(call: str, field: str) -> None:
    broken = {call: Status.CUDA_ERROR_INVALID_DEVICE}
    with pytest.raises(GpuUnreadable, match=rf"'{field}' of GPU 0.*CUDA_ERROR_INVALID_DEVICE"):
        visible(machine(h200(), broken_cuda=broken))


@pytest.mark.parametrize(
    ("attribute", "field"),
    [("MULTIPROCESSOR_COUNT", "sm_count"), ("GLOBAL_MEMORY_BUS_WIDTH", "memory_bus_width")],
)
def test_a_size_of_nothing_is_an_error_and_no_identity(attribute: str, field: str) -> None:
    nothing = {**h200().attributes, attribute: 0}
    with pytest.raises(GpuUnreadable, match=rf"'{field}' of GPU 0 \(NVIDIA H200\).*found 0"):
        visible(machine(h200(attributes=nothing)))


def test_a_driver_that_does_not_start_is_an_error_not_a_host_without_gpus() -> None:
    broken = {"cuInit": Status.CUDA_ERROR_SYSTEM_NOT_READY}
    with pytest.raises(GpuUnreadable, match="CUDA_ERROR_SYSTEM_NOT_READY"):
        visible(machine(h200(), broken_cuda=broken))


@pytest.mark.parametrize("call", ["nvmlInit", "nvmlSystemGetDriverVersion"])
def test_without_nvml_the_driver_cannot_be_told(call: str) -> None:
    with pytest.raises(GpuUnreadable, match="the driver's version") as raised:
        visible(machine(h200(), broken_nvml={call: "NVML Shared Library Not Found"}))
    assert raised.value.hint is not None
    assert "utility" in raised.value.hint


def test_a_gpu_that_nvml_does_not_know_is_an_error() -> None:
    with pytest.raises(GpuUnreadable, match="'uuid' of GPU 0"):
        visible(machine(h200(), broken_nvml={"nvmlDeviceGetHandleByUUID": "Not Found"}))


def test_nvml_is_closed_again_whatever_happens() -> None:
    there = machine(h200(), broken_nvml={"nvmlSystemGetDriverVersion": "Unknown Error"})
    with pytest.raises(GpuUnreadable):
        visible(there)
    conditions(GPU, there)
    assert there.nvml.open == 0


def test_gpus_survive_the_way_to_the_parent() -> None:
    found = visible(machine(h200(), partition()))
    sent = json.loads(json.dumps([document(each) for each in found]))
    assert read_gpus(sent) == found


def test_conditions_are_read_with_their_units() -> None:
    assert conditions(GPU, machine(h200(throttle=0x84))) == {
        "sm_clock_mhz": 1755,
        "sm_clock_max_mhz": 1980,
        "memory_clock_mhz": 3201,
        "memory_clock_max_mhz": 3201,
        "temperature_c": 31,
        "power_mw": 76512,
        "power_limit_mw": 700000,
        "throttled_by": ["sw_power_cap", "hw_power_brake_slowdown"],
        "utilisation": 37,
        "performance_state": "P0",
        "memory_used": 150110011392 // 4,
        "unread": {},
    }


def test_a_reason_without_a_name_is_not_lost() -> None:
    assert conditions(GPU, machine(h200(throttle=0x401)))["throttled_by"] == [
        "gpu_idle",
        "unknown_0x400",
    ]


def test_an_old_driver_tells_its_reasons_under_their_old_name() -> None:
    broken = {"nvmlDeviceGetCurrentClocksEventReasons": "Function Not Found"}
    found = conditions(GPU, machine(h200(throttle=0x8), broken_nvml=broken))
    assert found["throttled_by"] == ["hw_slowdown"]


def test_a_partition_has_the_clocks_of_its_gpu_and_its_own_memory() -> None:
    found = conditions(MIG, machine(h200(), partition()))
    assert found["sm_clock_mhz"] == 1755
    assert found["memory_used"] == 17179869184 // 4
    assert found["unread"] == {}


def test_what_cannot_be_read_of_the_conditions_is_said_and_fails_nothing() -> None:
    broken = {"nvmlDeviceGetPowerUsage": "Not Supported"}
    found = conditions(GPU, machine(h200(), broken_nvml=broken))
    assert found["power_mw"] is None
    assert "Not Supported" in found["unread"]["power_mw"]
    assert found["temperature_c"] == 31


def test_without_nvml_every_condition_is_said_to_be_unread() -> None:
    found = conditions(GPU, machine(h200(), broken_nvml={"nvmlInit": "Driver Not Loaded"}))
    unread = found.pop("unread")
    assert set(found.values()) == {None}
    assert unread.keys() == found.keys()


def test_what_else_computes_on_a_gpu_is_listed_without_ours() -> None:
    device = h200(processes=[(71, "/usr/bin/train", 4 << 30), (70, "", None), (99, "us", 1)])
    assert other_processes(GPU, {99}, machine(device)) == [
        {"pid": 70, "name": None, "memory": None, "utilisation": 80},
        {"pid": 71, "name": "/usr/bin/train", "memory": 4 << 30, "utilisation": 80},
    ]


def test_a_gpu_alone_with_us_is_not_busy() -> None:
    assert other_processes(GPU, {99}, machine(h200(processes=[(99, "us", 1)]))) == []


def test_processes_that_cannot_be_listed_are_not_taken_for_none() -> None:
    broken = {"nvmlDeviceGetComputeRunningProcesses": "Insufficient Permissions"}
    with pytest.raises(GpuUnreadable, match="Insufficient Permissions"):
        other_processes(GPU, (), machine(h200(), broken_nvml=broken))


def test_this_very_host_answers_in_plain_json() -> None:
    answer = gpus({"op": "gpus", "busy": True})
    assert json.loads(json.dumps(answer)) == answer
    assert answer["others"].keys() == {each["uuid"] for each in answer["gpus"]}


def test_the_fake_machine_has_no_name_that_the_libraries_lack() -> None:
    driver = pytest.importorskip("cuda.bindings.driver")
    nvml = pytest.importorskip("pynvml")
    there = machine(h200())
    for name in dir(type(there.driver)):
        # In CUDA 13 this is the plain name.
        if name.startswith(("cu", "CU")) and not name.endswith("_v2"):
            assert hasattr(driver, name), name
    for kind in ("CUresult", "CUdevice_attribute"):
        for member in getattr(there.driver, kind):
            assert hasattr(getattr(driver, kind), member.name), member
    for name in dir(type(there.nvml)):
        if name.startswith(("nvml", "NVML")):
            assert hasattr(nvml, name), name
