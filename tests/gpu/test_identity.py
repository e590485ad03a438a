"""The identity of this host's GPUs, as CUDA and NVML give it, against what nvidia-smi says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from engineforge.backends import host
from engineforge.backends.gpu import HostGpu, conditions, other_processes, read_gpus
from engineforge.spec.load import load
from engineforge.spec.matrix import parse_targets
from engineforge.spec.validate import validate
from engineforge.worker.process import Child
from tests.conftest import Forge

pytestmark = pytest.mark.gpu

# Holds a context on the GPU that it is shown until its input ends.
_BUSY = """\
import sys
from cuda.bindings import driver
assert driver.cuInit(0)[0] == 0
_, device = driver.cuDeviceGet(0)
_, context = driver.cuDevicePrimaryCtxRetain(device)
assert driver.cuCtxSetCurrent(context)[0] == 0
assert driver.cuMemAlloc(256 << 20)[0] == 0
print("busy", flush=True)
sys.stdin.read()
"""


def shown(folder: Path, **environment: str) -> list[HostGpu]:
    child = Child(folder / "child.log", {**os.environ, **environment})
    try:
        return read_gpus(child.ask({"op": "gpus"})["gpus"])
    finally:
        child.close()


def smi(uuid: str, *fields: str) -> list[str]:
    """What nvidia-smi says of a GPU."""
    command = ["nvidia-smi", f"--id={uuid}", f"--query-gpu={','.join(fields)}"]
    done = subprocess.run(
        [*command, "--format=csv,noheader,nounits"], capture_output=True, text=True, check=True
    )
    return [each.strip() for each in done.stdout.split(",")]


def test_each_gpu_is_the_one_that_nvidia_smi_shows(tmp_path: Path) -> None:
    found = shown(tmp_path)
    assert [each.index for each in found] == list(range(len(found)))
    for each in found:
        if each.gpu.mig_profile is not None:
            continue
        name, capability, driver, memory, ecc = smi(
            each.uuid, "name", "compute_cap", "driver_version", "memory.total", "ecc.mode.current"
        )
        assert (each.gpu.name, each.gpu.compute_capability) == (name, capability)
        assert each.driver == driver
        assert abs(each.gpu.memory / 2**20 - int(memory)) < 0.03 * int(memory)
        assert each.gpu.ecc == (ecc == "Enabled")


def test_only_what_the_environment_leaves_is_seen(tmp_path: Path) -> None:
    last = shown(tmp_path)[-1]
    (left,) = shown(tmp_path, CUDA_VISIBLE_DEVICES=last.uuid)
    assert (left.uuid, left.gpu, left.index) == (last.uuid, last.gpu, 0)
    assert shown(tmp_path, CUDA_VISIBLE_DEVICES="") == []


def test_detect_prints_a_target_that_fits_this_host(forge: Forge, tmp_path: Path) -> None:
    document, problems = load("targets.yaml", forge.run("target", "detect").out.encode())
    assert document is not None
    assert problems + validate("targets", document) == []
    targets, _ = parse_targets(document)
    classic = [each for each in targets.values() if each.toolchain.backend == "tensorrt"]
    gpus = shown(tmp_path)
    assert classic
    assert [host.why_not(each, lambda: gpus) for each in classic] == [None] * len(classic)


def test_conditions_can_all_be_read(tmp_path: Path) -> None:
    first = shown(tmp_path)[0]
    found = conditions(first.uuid)  # through NVML only, so no child is needed
    if first.gpu.mig_profile is None:
        assert found["unread"] == {}
    assert 0 < found["sm_clock_mhz"] <= found["sm_clock_max_mhz"]
    assert 0 < found["temperature_c"] < 110
    assert 0 < found["power_mw"] < 2_000_000


def test_a_gpu_that_computes_for_another_is_reported(tmp_path: Path) -> None:
    first = shown(tmp_path)[0]
    with subprocess.Popen(
        [sys.executable, "-c", _BUSY],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": first.uuid},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as busy:
        assert busy.stdout is not None
        assert busy.stdout.readline() == "busy\n"
        seen = [each["pid"] for each in other_processes(first.uuid, ())]
        rest = [each["pid"] for each in other_processes(first.uuid, [busy.pid])]
        busy.communicate("")
    assert busy.pid in seen
    assert busy.pid not in rest


def test_looking_at_a_gpu_is_no_work_on_it(tmp_path: Path) -> None:
    # The child that is asked has initialized CUDA, and must have made no context.
    before = {each.uuid: other_processes(each.uuid, ()) for each in shown(tmp_path)}
    child = Child(tmp_path / "child.log", os.environ)
    try:
        assert len(child.ask({"op": "gpus"})["gpus"]) == len(before)
        during = {uuid: other_processes(uuid, ()) for uuid in before}
    finally:
        child.close()
    assert {uuid: len(each) for uuid, each in during.items()} == {
        uuid: len(each) for uuid, each in before.items()
    }
