"""What a node does with an order: it looks at itself and at what machines share, and says what is
wrong with them."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from engineforge import __version__
from engineforge.digest import digest_bytes, digest_value
from engineforge.project.plans import Selection
from engineforge.project.project import Project
from engineforge.store.stats import stat_of
from engineforge.target import Toolchain
from engineforge.worker.job import Job
from engineforge.worker.labels import need_of
from engineforge.worker.node import Here, carry_out
from engineforge.worker.order import Answer, Delivered, Order, Refused
from engineforge.worker.outcome import Failed
from engineforge.worker.parcel import Parcel, without_files
from tests.conftest import Forge, conditions


@pytest.fixture
def job(forge: Forge) -> Iterator[Job]:
    with Project(forge.specs, forge.cache, os.environ) as project:
        (planned,) = project.plan([forge.specs], Selection()).variants
        assert planned.job is not None
        yield planned.job


@pytest.fixture
def order(job: Job, tmp_path: Path) -> Order:
    """One whose parcel is nowhere."""
    digest = digest_bytes(b"model")
    return Order(
        job=without_files(job),
        digest=digest,
        external=(),
        engine=digest_value(job.key.engine_key(digest, ())),
        parcel=Parcel(key=digest_value("parcel"), model="model/model.onnx", libraries={}),
        need=need_of(job.variant.target, job.builder),
        remote=str(tmp_path / "far"),
        version=__version__,
        timeout=None,
        cold=False,
        about={},
    )


Node = Callable[..., Answer]


@pytest.fixture
def node(tmp_path: Path) -> Node:
    here = Here(
        name="n1",
        cache=tmp_path / "node",
        environment={},
        memory=None,
        now=conditions().now,
        gpus=list,
    )
    return lambda order, **more: carry_out(order, replace(here, **more), lambda _: None)


def test_a_node_of_another_version_refuses(node: Node, order: Order) -> None:
    found = node(replace(order, version="0.0.1"))
    assert isinstance(found, Refused)
    assert found.why == f"it has engineforge {__version__}, and the order is of 0.0.1"


def test_a_node_without_the_toolchain_refuses(node: Node, order: Order) -> None:
    variant = order.job.variant
    chain = Toolchain(backend="tensorrt_rtx", version="1.6.0.1", cuda="13.0")
    target = replace(variant.target, toolchain=chain)
    found = node(replace(order, job=replace(order.job, variant=replace(variant, target=target))))
    assert isinstance(found, Refused)
    assert "the target pins tensorrt_rtx 1.6.0.1" in found.why


def test_a_folder_that_a_node_does_not_see_is_named(node: Node, order: Order) -> None:
    found = node(order)
    assert isinstance(found, Failed)
    assert f"is not in '{order.remote}', seen from n1: do all nodes mean the same" in found.error


def test_a_node_without_credentials_says_so_by_its_name(node: Node, order: Order) -> None:
    pytest.importorskip("obstore", reason="needs: python -m pip install 'engineforge[remote]'")
    found = node(replace(order, remote="az://engines/team"))
    assert isinstance(found, Failed)
    assert found.error.startswith("on n1: ")


def test_what_is_sent_and_what_comes_back_is_small(job: Job, order: Order, tmp_path: Path) -> None:
    weights = tmp_path / "weights.npz"
    weights.write_bytes(bytes(1 << 20))
    files = {weights: (digest_bytes(weights.read_bytes()), stat_of(weights))}
    large = without_files(replace(job, model=weights, source=files, calibrated_on=files))
    assert len(pickle.dumps(replace(order, job=large))) < 8 << 10
    assert len(pickle.dumps(Delivered(engine=order.engine, made=True))) < 1 << 10
