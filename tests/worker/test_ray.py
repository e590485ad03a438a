"""Builds on a Ray cluster of fake nodes: where they go, and what is left when something ends."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from engineforge.project.plans import Selection
from engineforge.project.project import Project
from engineforge.store.local import LocalStore
from engineforge.worker.outcome import Built, Event, Noted, Outcome
from tests.conftest import Forge, conditions
from tests.gpus import H200, L4
from tests.models import save
from tests.worker.conftest import chain, litter, outcomes, says, until
from tests.worker.farm import FakeNode, Farm, Head, serve

pytest.importorskip("ray", reason="needs: python -m pip install 'engineforge[ray]'")
pytestmark = pytest.mark.slow

_PLENTY = 120.0
"""Seconds that nothing here takes, however busy the host is."""


@pytest.fixture(scope="session")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    made = Head(tmp_path_factory.mktemp("ray") / "log")
    yield made
    made.close()


@pytest.fixture
def farm(head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Farm]:
    made = Farm(head, tmp_path)
    monkeypatch.setenv("RAY_ADDRESS", head.address)
    yield made
    made.close()


@pytest.fixture
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One cluster at a time has clients: Ray's servers for them take the first port from 23000 on
    that looks free, and those of two clusters take the same."""
    with (tmp_path_factory.getbasetemp().parent / "ray-clients").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _far(forge: Forge, stage: str) -> list[Path]:
    return sorted((forge.root / "far").glob(f"entries-v1/{stage}/*/*.json"))


def _left(cache: Path) -> list[str]:
    """What is left of work in progress, but for downloads that are gone on with."""
    return [each for each in litter(cache) if each != "partial"]


def _building(farm: Farm) -> FakeNode:
    """The node that builds, as soon as one does."""
    found: list[FakeNode] = until(lambda: [each for each in farm.nodes if each.builds()], _PLENTY)
    return found[0]


def test_engines_are_built_on_nodes_and_come_back(forge: Forge, farm: Farm) -> None:
    farm.node()
    forge.edit("net", "[ada]", "[ada, ampere]")
    found = outcomes(farm.start(forge))
    assert {label: each["outcome"] for label, each in found.items()} == {
        "net/fp32@ada": "built",
        "net/fp32@ampere": "built",
    }
    assert len(_far(forge, "engine")) == 2
    assert {each["state"] for each in forge.plan()} == {"up-to-date"}
    assert forge.run("verify").code == 0
    assert _left(farm.nodes[0].cache) == []


def test_a_target_without_a_node_is_refused_before_anything_is_done(
    forge: Forge, farm: Farm
) -> None:
    farm.node()
    forge.edit("targets", "1.7.1.116", "1.6.0.1")
    process = farm.start(forge)
    out, err = process.communicate()
    assert (process.returncode, out) == (5, "")
    assert "no node of the cluster has what target 'ada' needs" in err
    assert "tensorrt-rtx=1.6.0.1" in err
    assert "with platform=linux-x86_64, tensorrt-rtx=1.7.1.116, tensorrt-rtx.cuda=13, 1 CPU" in err
    assert "`engineforge cluster labels`" in err
    assert LocalStore(forge.cache).stages() == []


def test_a_node_that_is_lost_is_replaced_and_its_engine_published_once(
    forge: Forge, farm: Farm
) -> None:
    farm.node()
    farm.node()
    (forge.specs / "net.yaml").unlink()
    chain(forge, "slow", 3000)
    process = farm.start(forge)
    lost = _building(farm)
    farm.kill(lost)
    line = says(process, "is built elsewhere")
    assert "slow/fp32@ada: its node was lost" in line
    (found,) = outcomes(process).values()
    assert found["outcome"] == "built"
    assert len(_far(forge, "engine")) == 1
    until(lambda: not lost.builds(), _PLENTY)


def test_when_the_command_is_killed_the_next_one_goes_on(forge: Forge, farm: Farm) -> None:
    node = farm.node()
    chain(forge, "slow", 3000)
    process = farm.start(forge, "-j", "1")
    until(lambda: len(_far(forge, "parcel")) == 2, _PLENTY)
    until(node.builds, _PLENTY)
    process.kill()
    process.communicate()
    until(lambda: not node.builds(), _PLENTY)
    found = outcomes(farm.start(forge))
    assert {each["outcome"] for each in found.values()} <= {"built", "reused"}
    assert len(_far(forge, "engine")) == 2
    assert {each["state"] for each in forge.plan()} == {"up-to-date"}
    assert _left(node.cache) == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_cancelled_run_leaves_nothing_running(
    forge: Forge, farm: Farm, how: signal.Signals
) -> None:
    node = farm.node()
    chain(forge, "slow", 2000)
    process = farm.start(forge)
    until(node.builds, _PLENTY)
    process.send_signal(how)
    _, err = process.communicate(timeout=_PLENTY)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "interrupted; the same command goes on from here"
    assert not node.builds()
    assert _left(node.cache) == []
    assert _left(forge.cache) == []


def test_what_cannot_be_built_fails_once_with_the_end_of_its_log(forge: Forge, farm: Farm) -> None:
    farm.node()
    farm.node()
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("FooBar", ["image"], ["y"], name="/odd/FooBar")],
        "graph",
        [value("image", TensorProto.FLOAT, ["batch", 3, 16, 16])],
        [value("y", TensorProto.FLOAT, ["batch", 3, 16, 16])],
    )
    save(graph, forge.model)
    process = farm.start(forge)
    out, err = process.communicate()
    (failed,) = json.loads(out)["variants"]
    assert process.returncode == 1
    assert (failed["outcome"], failed["stage"]) == ("failed", "engine")
    assert "/odd/FooBar" in failed["error"]
    assert err.count("net/fp32@ada: building") == 1


def test_a_node_that_is_not_what_its_labels_say_refuses(forge: Forge, farm: Farm) -> None:
    farm.node(labels={"tensorrt-rtx": "1.6.0.1"})
    forge.edit("targets", "1.7.1.116", "1.6.0.1")
    process = farm.start(forge)
    out, err = process.communicate()
    (failed,) = json.loads(out)["variants"]
    assert (process.returncode, failed["outcome"]) == (1, "failed")
    assert "the target pins tensorrt_rtx 1.6.0.1" in failed["error"]
    assert "is not what its labels say" in err
    assert _far(forge, "engine") == []


@pytest.mark.usefixtures("outside")
def test_from_outside_the_cluster_it_is_all_the_same(forge: Forge, farm: Farm) -> None:
    farm.node()
    on = ("--on", f"ray://127.0.0.1:{farm.head.client_port}")
    process = farm.start(forge, *on)
    (built,) = outcomes(process).values()
    assert (process.returncode, built["outcome"]) == (0, "built")


@pytest.mark.usefixtures("outside")
def test_an_interrupted_client_leaves_nothing_running(forge: Forge, farm: Farm) -> None:
    node = farm.node()
    chain(forge, "slow", 3000)
    process = farm.start(forge, "--on", f"ray://127.0.0.1:{farm.head.client_port}")
    says(process, "slow/fp32@ada: building")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=_PLENTY)
    assert process.returncode == 130
    until(lambda: not node.builds(), _PLENTY)


_IN_A_CLUSTER = """\
import os, sys
from engineforge.errors import HostUnfit
from engineforge.worker.ray import RayCluster
from tests.worker.farm import serve

def refusal(act):
    try:
        act()
    except HostUnfit as error:
        return str(error)

before = sys.stdout
with RayCluster(sys.argv[1], serve, os.environ) as cluster:
    {inside}
"""
_UNTIL_IT_GOES = """cluster.nodes()
    print("connected", file=sys.stderr, flush=True)
    sys.stdin.readline()
    said = refusal(cluster.nodes)
print(said, file=before)"""
_TWICE = """within = sys.stdout
    # Ray has one for each process.
    said = refusal(RayCluster(sys.argv[1], serve, os.environ).__enter__)
    same = sys.stdout is within
print(said, same, sys.stdout is before, file=before)"""


@contextlib.contextmanager
def _client(address: str, inside: str) -> Iterator[subprocess.Popen[str]]:
    """In a process of its own: what Ray keeps of a cluster that went breaks the next one."""
    with subprocess.Popen(
        [sys.executable, "-c", _IN_A_CLUSTER.format(inside=inside), address],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "RAY_CLIENT_RECONNECT_GRACE_PERIOD": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.usefixtures("outside")
def test_a_client_whose_cluster_goes_says_so(tmp_path: Path) -> None:
    head = Head(tmp_path / "log")
    with contextlib.ExitStack() as until_gone:
        until_gone.callback(head.close)
        on = f"ray://127.0.0.1:{head.client_port}"
        with _client(on, _UNTIL_IT_GOES) as client:
            says(client, "^connected$")
            until_gone.close()
            out, err = client.communicate("\n", timeout=_PLENTY)
    assert client.returncode == 0, err
    assert "cannot be reached any more" in out


def test_a_head_that_could_not_serve_a_client_is_told_apart(
    forge: Forge, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(*_: object, **__: object) -> None:
        raise ConnectionAbortedError(
            "Initialization failure from server:\nTraceback\nRuntimeError: Starting Ray client "
            "server failed. See ray_client_server_23000.err for detailed logs."
        )

    monkeypatch.setattr("ray.init", init)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        on = f"ray://127.0.0.1:{listening.getsockname()[1]}"
        result = forge.run("build", "specs", "--on", on, "--remote", "far")
    assert result.code == 5
    assert "could not start its server for this client\nhint: try once more" in result.err


def test_who_is_refused_a_cluster_has_stdout_back(head: Head) -> None:
    with _client(head.address, _TWICE) as client:
        out, err = client.communicate(timeout=_PLENTY)
    assert client.returncode == 0, err
    assert "twice" in out
    assert out.splitlines()[-1].endswith("True True")


@pytest.mark.parametrize("address", ["ray://a..b:1", "ray://127.0.0.1:1", "127.0.0.1:1"])
def test_where_nobody_listens_that_is_said_at_once(forge: Forge, address: str) -> None:
    result = forge.run("build", "specs", "--on", address, "--remote", "far")
    assert result.code == 5
    assert f"no Ray cluster listens at '{address}'" in result.err


def test_a_cluster_that_is_gone_but_not_forgotten_is_not_waited_for(
    forge: Forge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")
    result = forge.run("build", "specs", "--on", "ray", "--remote", "far")
    assert result.code == 5
    assert "no Ray cluster listens at '127.0.0.1:1'" in result.err


def test_what_the_environment_names_is_the_cluster_that_runs(
    forge: Forge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ray://127.0.0.1:1")
    result = forge.run("build", "specs", "--on", "ray", "--remote", "far")
    assert result.code == 5
    assert "no Ray cluster listens at 'ray://127.0.0.1:1'" in result.err


@pytest.mark.parametrize("on", ["raz", "ray://", "ray://host:port", "host:port"])
def test_what_is_no_address_is_refused(forge: Forge, on: str) -> None:
    result = forge.run("build", "specs", "--on", on, "--remote", "far")
    assert result.code == 2
    assert f"'{on}' is no cluster" in result.err


_NETWORK = """\
def build(network, trt, weights):
    x = network.add_input("image", trt.float32, (-1, 3, 16, 16))
    conv = network.add_convolution_nd(x, 8, (3, 3), weights["w"], weights["b"])
    conv.get_output(0).name = "features"
    network.mark_output(conv.get_output(0))
"""


def test_a_network_and_its_weights_reach_the_node(forge: Forge, farm: Farm) -> None:
    farm.node()
    forge.edit(
        "net", "{path: models/net.onnx}", "{network: {function: 'net:build', weights: w.npz}}"
    )
    forge.edit("net", "precision: fp32", "precision: source")
    (forge.specs / "net.py").write_text(_NETWORK)
    weights = {"w": np.ones((8, 3, 3, 3), np.float32), "b": np.zeros(8, np.float32)}
    np.savez(forge.specs / "w.npz", allow_pickle=False, **weights)
    (built,) = outcomes(farm.start(forge)).values()
    assert built["outcome"] == "built"


_PRETENDED = """\
model:
  source: {path: models/net.onnx}
inputs:
  image: {min: [1, 3, 16, 16], opt: [4, 3, 16, 16], max: [8, 3, 16, 16]}
targets: [ada]
variants:
  h200: {precision: fp32, builder: {max_aux_streams: 1}}
  l4: {precision: fp32, builder: {max_aux_streams: 2}}
  any: {precision: fp32, builder: {max_aux_streams: 3}}
"""
_LOADS = """\
import os, sys, types
def load_test(request):
    return {"sees": os.environ["CUDA_VISIBLE_DEVICES"]}
module = types.ModuleType("engineforge.runtime.operations")
module.OPERATIONS = {"load-test": load_test}
sys.modules[module.__name__] = module
"""


@pytest.fixture
def loads(tmp_path: Path) -> list[Path]:
    """Where children find what says of every engine that it loads."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(_LOADS)
    return [site, Path(__file__).parents[2]]


def _on_gpus(forge: Forge, farm: Farm) -> tuple[dict[str, Outcome], list[Event]]:
    """Build on the cluster what is built by TensorRT-RTX, for targets that pretend to be of the
    GPU that their variant is called by."""
    from engineforge.worker.ray import RayCluster

    events: list[Event] = []
    forge.spec("net", _PRETENDED)
    how = conditions(jobs=2, keep_going=True, observe=events.append)
    with Project(forge.specs, forge.cache, os.environ) as project:
        plan = project.plan([forge.specs], Selection())
        for index, each in enumerate(plan.variants):
            if each.job is not None and each.variant != "any":
                gpu = {"h200": H200, "l4": L4}[each.variant]
                variant = each.job.variant
                target = replace(variant.target, gpu=gpu, compute_capabilities=())
                job = replace(each.job, variant=replace(variant, target=target))
                plan.variants[index] = replace(each, job=job)
        overlay = project.overlay(str(forge.root / "far"), push=True)
        with RayCluster(farm.head.address, serve, os.environ) as cluster:
            found = project.build(plan, how, overlay=overlay, cluster=cluster)
        return {v.variant: o for v, o in zip(plan.variants, found, strict=True)}, events


def _built_on(forge: Forge) -> dict[str, str | None]:
    """The GPU that each variant's engine was built on."""
    records = [each.manifest.record for each in LocalStore(forge.cache).entries("engine")]
    return {each["variant"]: each["gpu"] and each["gpu"]["uuid"] for each in records}


def test_each_engine_is_built_on_a_node_of_its_kind(
    forge: Forge, farm: Farm, loads: list[Path]
) -> None:
    farm.node(gpu="h200", path=loads)
    farm.node(gpu="l4", path=loads)
    found, _ = _on_gpus(forge, farm)
    assert all(isinstance(each, Built) for each in found.values()), found
    assert _built_on(forge) == {"h200": "GPU-h200", "l4": "GPU-l4", "any": None}


def test_what_a_mislabelled_node_refuses_is_built_by_another(
    forge: Forge, farm: Farm, loads: list[Path]
) -> None:
    farm.node(gpu="l4", path=loads, labels={"gpu.product": "NVIDIA-H200", "sm": "9.0"})
    farm.node(gpu="h200", path=loads)
    farm.node(gpu="l4", path=loads)
    found, events = _on_gpus(forge, farm)
    assert all(isinstance(each, Built) for each in found.values()), found
    assert _built_on(forge) == {"h200": "GPU-h200", "l4": "GPU-l4", "any": None}
    noted = [each.text for each in events if isinstance(each, Noted)]
    assert all("this host has 'NVIDIA L4'" in each for each in noted)
