"""`engineforge target` and `doctor` on hosts with and without GPUs and classic TensorRT.

The GPUs are those of a fake machine, which the child process that looks for them finds.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from engineforge.backends import host
from engineforge.backends.gpu import visible
from engineforge.spec.load import load
from engineforge.spec.matrix import parse_targets
from engineforge.spec.validate import validate
from engineforge.target import Target
from tests.backends.machines import h200, install, machine, partition
from tests.backends.packages import TENSORRT_8, TENSORRT_10, Site
from tests.conftest import CLASSIC, TARGETS, Forge

Install = Callable[..., None]


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a machine that has devices given as text: `h200(), partition()`."""

    def installed(devices: str, **more: str) -> None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        install(tmp_path / "machine", monkeypatch.setenv, devices, **more)

    return installed


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return Site(folder)


def _parsed(text: str) -> dict[str, Target]:
    document, problems = load("targets.yaml", text.encode())
    assert document is not None
    assert problems + validate("targets", document) == []
    targets, found = parse_targets(document)
    assert found == []
    return targets


def test_detect_prints_a_target_that_fits_this_very_host(
    forge: Forge, gpus: Install, site: Site
) -> None:
    gpus("h200()")
    site.has(TENSORRT_8)
    target = _parsed(forge.run("target", "detect").out)["h200"]
    found = visible(machine(h200()))
    assert target.gpu == found[0].gpu
    assert host.why_not(target, lambda: found) is None


def test_what_detect_prints_is_made_for_a_person_to_read(
    forge: Forge, gpus: Install, site: Site
) -> None:
    gpus("h200()")
    site.has(TENSORRT_8)
    out = forge.run("target", "detect").out
    assert out[out.index("h200:") :] == (
        "h200:\n"
        "  backend: 'tensorrt'\n"
        "  version: '8.6.0'\n"
        "  cuda: '12'\n"
        f"  platform: '{host.host_platform()}'\n"
        "  gpu:\n"
        "    name: 'NVIDIA H200'\n"
        "    compute_capability: '9.0'\n"
        "    sm_count: 132\n"
        "    memory: 150110011392\n"
        "    memory_bus_width: 6144\n"
        "    l2_cache: 62914560\n"
        "    shared_memory_per_block: 232448\n"
        "    shared_memory_per_sm: 233472\n"
        "    ecc: true\n"
        "  # driver: '580.159.04'  # only if another driver must mean a rebuild\n"
    )


def test_json_and_yaml_say_the_same(forge: Forge, gpus: Install, site: Site) -> None:
    gpus("h200(), partition()")
    site.has(TENSORRT_8)
    both = [forge.run("target", "detect", *more).out for more in ((), ("--json",))]
    assert _parsed(both[0]) == _parsed(both[1])  # JSON is YAML


def test_each_kind_of_gpu_is_detected_once(forge: Forge, gpus: Install, site: Site) -> None:
    gpus("h200(), h200(uuid=OTHER_UUID, memory=150000000000), partition()")
    site.has(TENSORRT_8)
    assert forge.run("target", "detect", "--json").json.keys() == {
        "rtx-cuda13",
        "h200",
        "h200-1g.18gb",
    }


def test_a_detected_partition_is_another_target_than_its_gpu(
    forge: Forge, gpus: Install, site: Site
) -> None:
    gpus("h200(), partition()")
    site.has(TENSORRT_8)
    targets = _parsed(forge.run("target", "detect").out)
    found = visible(machine(h200(), partition()))
    assert host.matching(targets["h200"], found) == [found[0]]
    assert host.matching(targets["h200-1g.18gb"], found) == [found[1]]


def test_gpus_of_one_name_and_two_kinds_are_told_apart(
    forge: Forge, gpus: Install, site: Site
) -> None:
    less = "{**h200().attributes, 'ECC_ENABLED': 0}"
    gpus(f"h200(), Device(uuid=OTHER_UUID, attributes={less})")
    site.has(TENSORRT_8)
    targets = _parsed(forge.run("target", "detect").out)
    assert [name for name in targets if "h200" in name] == ["h200", "h200-2"]


def test_a_hidden_gpu_is_not_detected(
    forge: Forge, gpus: Install, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus("h200(), partition()")
    site.has(TENSORRT_8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert forge.run("target", "detect", "--json").json.keys() == {"rtx-cuda13", "h200-1g.18gb"}


def test_a_gpu_without_classic_tensorrt_is_said(forge: Forge, gpus: Install) -> None:
    gpus("h200()")
    result = forge.run("target", "detect")
    assert result.code == 0
    assert "note: this host has 'NVIDIA H200', and no classic TensorRT" in result.err
    assert "h200" not in result.out


def test_classic_tensorrt_without_a_gpu_is_said(forge: Forge, gpus: Install, site: Site) -> None:
    gpus("")
    site.has(TENSORRT_10)
    result = forge.run("target", "detect")
    assert result.code == 0
    assert "tensorrt 10.13.3.9 (CUDA 12)" in result.err
    assert "this host shows none" in result.err


UNREADABLE = "broken_cuda={'cuDeviceTotalMem': Status.CUDA_ERROR_INVALID_DEVICE}"


def test_an_identity_that_cannot_be_read_is_an_error_and_no_target(
    forge: Forge, gpus: Install, site: Site
) -> None:
    gpus("h200()", broken=UNREADABLE)
    site.has(TENSORRT_8)
    result = forge.run("target", "detect")
    assert result.code == 5
    assert "'memory' of GPU 0 (NVIDIA H200) cannot be read" in result.err
    assert result.out == ""


def test_tensorrt_rtx_does_not_mind_a_gpu_that_cannot_be_read(forge: Forge, gpus: Install) -> None:
    gpus("h200()", broken=UNREADABLE)
    result = forge.run("target", "detect")
    assert result.code == 0
    assert "note: 'memory' of GPU 0 (NVIDIA H200) cannot be read" in result.err
    assert "rtx-cuda13:" in result.out


def test_a_driver_whose_python_packages_are_missing_is_an_error_that_says_how_to_get_them(
    forge: Forge, gpus: Install, site: Site, tmp_path: Path
) -> None:
    gpus("h200()")
    (tmp_path / "machine" / "pynvml.py").write_text("raise ImportError('No module named pynvml')")
    site.has(TENSORRT_8)
    result = forge.run("target", "detect")
    assert result.code == 5
    assert "engineforge[tensorrt]" in result.err


def test_a_list_of_targets_looks_at_the_gpus_of_the_host(
    forge: Forge, gpus: Install, site: Site
) -> None:
    gpus("h200()")
    site.has({name: ("10.13.3.9", requires) for name, (_, requires) in TENSORRT_10.items()})
    forge.spec("targets", TARGETS + CLASSIC)
    assert forge.run("target").out.count("can be built here") == 3
    forge.edit("targets", "sm_count: 132", "sm_count: 131")
    assert "the number of SMs is 132, expected 131" in forge.run("target").out


def test_doctor_lists_gpus_and_what_they_are_busy_with(
    forge: Forge, gpus: Install, site: Site
) -> None:
    gpus("h200(processes=[(71, '/usr/bin/train', 4 << 30)]), partition()")
    site.has(TENSORRT_8)
    result = forge.run("doctor")
    assert result.code == 0
    assert "tensorrt     tensorrt 8.6.0 (CUDA 12)\n" in result.out
    assert (
        "GPU 0      NVIDIA H200, compute capability 9.0, 139.8 GiB, driver 580.159.04 (CUDA 13.0), "
        "GPU-11111111-2222-3333-4444-555555555555\n"
        "           busy with /usr/bin/train (71, 4.0 GiB, 80 % of its SMs)\n"
    ) in result.out
    assert "GPU 1      NVIDIA H200, MIG 1g.18gb, compute capability 9.0, 16.0 GiB" in result.out


def test_doctor_gives_the_same_as_json(forge: Forge, gpus: Install) -> None:
    gpus("h200(processes=[(71, '/usr/bin/train', None)])")
    (found,) = forge.run("doctor", "--json").json["gpus"]
    assert found["gpu"]["sm_count"] == 132
    assert [each["pid"] for each in found["others"]] == [71]


def test_doctor_says_that_a_gpu_cannot_be_read_and_of_whom_that_makes_a_target_unfit(
    forge: Forge, gpus: Install, site: Site
) -> None:
    gpus("h200()", broken=UNREADABLE)
    site.has({name: ("10.13.3.9", requires) for name, (_, requires) in TENSORRT_10.items()})
    forge.spec("targets", TARGETS + CLASSIC)
    result = forge.run("doctor", "--json")
    assert result.code == 5
    assert "'memory' of GPU 0" in result.json["gpus_unreadable"]
    assert "'memory' of GPU 0" in result.json["targets"]["h200"]
    assert result.json["targets"]["ada"] is None


def test_doctor_says_that_there_is_no_gpu(forge: Forge, gpus: Install) -> None:
    gpus("")
    assert "GPUs       none" in forge.run("doctor").out


def test_doctor_tells_a_tensorrt_whose_cuda_is_unclear(forge: Forge, site: Site) -> None:
    site.has({"tensorrt": ("10.13.3.9", [])})
    assert "warning    TensorRT 10.13.3.9 is here, and nothing says" in forge.run("doctor").out
