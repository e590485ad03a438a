"""What a cache knows of an engine is said of that engine alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engineforge.digest import digest_bytes
from engineforge.project.plans import Selection
from engineforge.project.project import Project
from engineforge.project.promotion import ENVIRONMENTS, Environments, Promoter
from engineforge.promotion.attest import results
from engineforge.promotion.ledger import Listed
from tests.conftest import SPEC, Forge

pytest.importorskip("cryptography", reason="python -m pip install 'engineforge[promotion]'")
pytest.importorskip("onnxruntime", reason="python -m pip install 'engineforge[precision]'")

_CHECKED = SPEC.replace("fp32: {precision: fp32}", "fp16: {precision: fp16}") + (
    "checks: {accuracy: {data: seen.npz, max_relative_error: 0.1}}\n"
)
_ENVIRONMENTS = """\
dev: {store: ../dev, signers: {ci: ci.pub}, gates: {accuracy: {}}}
staging: {store: ../staging, from: dev, signers: {ci: ci.pub, eve: eve.pub}, gates: {accuracy: {}}}
"""


@pytest.fixture
def promoted(forge: Forge) -> Forge:
    """An FP16 engine in `dev`, whose model was checked."""
    random = np.random.default_rng(3)
    images = random.standard_normal((8, 3, 16, 16), dtype=np.float32)
    np.savez(forge.specs / "seen.npz", image=images)
    forge.spec("net", _CHECKED)
    forge.spec("environments", _ENVIRONMENTS)
    for name in ("ci", "eve"):
        assert forge.run("attest", "key", f"specs/{name}").code == 0
    assert forge.build().code == 0
    assert forge.run("check", "specs", "--accuracy").code == 0
    done = forge.run("promote", "specs", "--to", "dev", "--key", "specs/ci.key")
    assert done.code == 0, done.err
    return forge


def _known(forge: Forge, engine: Listed) -> list[str]:
    environments = Environments(forge.specs / ENVIRONMENTS, {}, lambda _: None)
    with Project(forge.specs, forge.cache, {}) as project:
        specs = [forge.specs / "net.yaml"]
        promoter = Promoter(project, specs, Selection(), environments=environments, key=None)
        return [each.predicate_type for each in promoter.known_here("net", engine)]


def _in_dev(forge: Forge) -> Listed:
    opened = Environments(forge.specs / ENVIRONMENTS, {}, lambda _: None).open("dev")
    state = opened.state("net")
    assert state is not None
    return state.engines[0]


@pytest.mark.slow
def test_what_checks_came_to_is_said_of_the_bytes_that_were_checked(promoted: Forge) -> None:
    engine = _in_dev(promoted)
    assert _known(promoted, engine) == [results.TEST_RESULT]
    # Built elsewhere by the same recipe: the same key, and other bytes.
    other = replace(engine, engine=digest_bytes(b"another engine"))
    assert _known(promoted, other) == []


@pytest.mark.slow
def test_results_are_attached_once_by_a_key_that_counts_where_they_are_asked_for(
    promoted: Forge,
) -> None:
    attach = ("attest", "results", "specs", "--to", "staging", "--key")
    first = promoted.run(*attach, "specs/eve.key")
    assert (first.code, "1 attached" in first.out) == (0, True)
    again = promoted.run(*attach, "specs/eve.key")
    assert (again.code, "nothing new to attach" in again.out) == (0, True)
    promoted.run("attest", "key", "specs/mallory")
    refused = promoted.run(*attach, "specs/mallory.key")
    assert (refused.code, "the key is of no signer of staging" in refused.err) == (3, True)
