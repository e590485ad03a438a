"""Plans for classic TensorRT: what is in their keys, made on a host that cannot build them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from engineforge.backends import TYPING
from engineforge.backends.gpu import GpuUnreadable, HostGpu
from engineforge.project.plans import Selection
from engineforge.project.project import Project
from tests.backends.packages import Site
from tests.conftest import CLASSIC, Forge


def _toolchains(forge: Forge) -> dict[str, Any]:
    """Of the recipes of all variants, by target."""
    with Project(forge.specs, forge.cache, {}) as project:
        plan = project.plan([Path("specs/net.yaml")], Selection(), jobs=True)
    assert plan.problems == []
    return {
        each.target: each.job.key.engine.toolchain for each in plan.variants if each.job is not None
    }


def test_the_rules_of_weak_typing_are_in_the_key_of_tensorrt_8_alone(forge: Forge) -> None:
    old = CLASSIC.replace("h200:", "old:").replace("10.13.3.9", "8.6.0")
    forge.spec("targets", (forge.specs / "targets.yaml").read_text() + CLASSIC + old)
    forge.edit("net", "[ada]", "[ada, h200, old]")
    found = _toolchains(forge)
    assert found["old"]["typing"] == TYPING
    assert "typing" not in found["h200"]
    assert "typing" not in found["ada"]


class _Unreadable(Project):
    """A project on a host whose GPUs cannot be read the first time, as while a driver starts."""

    asked = 0

    def gpus(self) -> Sequence[HostGpu]:
        type(self).asked += 1
        if self.asked == 1:
            raise GpuUnreadable("the driver is not ready yet")
        return []


def test_a_gpu_that_cannot_be_read_is_looked_for_again_the_next_time(
    forge: Forge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "site")
    Site(tmp_path / "site").has({"tensorrt": ("8.6.0", ["nvidia-cuda-runtime-cu12"])})
    text = CLASSIC.replace("10.13.3.9", "8.6.0").replace("12.9", "12")
    forge.spec("targets", text)
    forge.edit("net", "[ada]", "[h200]")
    said = []
    for _ in range(3):
        with _Unreadable(forge.specs, forge.cache, {}) as project:
            (planned,) = project.plan([Path("specs/net.yaml")], Selection()).variants
        said.append(planned.unfit or "")
    assert said[0] == "the driver is not ready yet"
    assert "this host shows no NVIDIA GPU" in said[1]
    assert said[2] == said[1]
    assert _Unreadable.asked == 2, "what is known of a host is remembered"
