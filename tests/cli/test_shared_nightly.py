"""Machines that share a bucket of an S3-compatible server, each with its own cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.conftest import SPEC, Forge
from tests.store.remote_servers import S3Server, environment, s3_server

pytest.importorskip("obstore", reason="needs: python -m pip install 'engineforge[remote]'")
pytest.importorskip("moto.server", reason="needs: python -m pip install 'moto[server]'")
pytestmark = pytest.mark.slow

_VARIANTS = """\
  wide: {precision: fp32, builder: {tf32: false}}
  both: {precision: fp32, targets: [ampere]}
"""


@dataclass(frozen=True)
class Machine:
    """One with a cache of its own, and the specs that all have."""

    forge: Forge
    cache: str
    url: str
    server: S3Server

    def start(self, *args: str) -> subprocess.Popen[str]:
        words = ["build", "specs", "--json", "--cache", self.cache, "--remote", self.url, *args]
        return subprocess.Popen(
            [sys.executable, "-m", "engineforge", *words, "--push", "always"],
            cwd=self.forge.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment(self.server.url)},
        )

    def build(self, *args: str) -> tuple[dict[str, str], str]:
        """What became of each variant, and what was said."""
        return outcomes(self.start(*args))

    def engines(self) -> dict[str, bytes]:
        found = (self.forge.root / self.cache).glob("entries-v1/engine/*/*/model.engine")
        return {path.parent.name: path.read_bytes() for path in found}


def outcomes(process: subprocess.Popen[str]) -> tuple[dict[str, str], str]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    found: dict[str, Any] = json.loads(out)
    return {each["variant"]: each["outcome"] for each in found["variants"]}, err


@pytest.fixture
def server() -> Iterator[S3Server]:
    with s3_server() as made:
        yield made


@pytest.fixture
def machines(forge: Forge, server: S3Server) -> list[Machine]:
    forge.spec("net", SPEC + _VARIANTS)
    url = server.bucket("nightly") + "/team-a"
    return [Machine(forge, cache, url, server) for cache in ("one", "two", "three")]


def test_the_second_machine_of_a_night_builds_nothing(machines: list[Machine]) -> None:
    one, two, _ = machines
    assert one.build()[0] == {"fp32": "built", "wide": "built", "both": "built"}
    assert two.build()[0] == {"fp32": "reused", "wide": "reused", "both": "reused"}
    assert one.engines() == two.engines()


def test_after_a_night_of_two_at_once_a_third_has_an_engine_of_either(
    machines: list[Machine],
) -> None:
    one, two, three = machines
    at_once = [one.start(), two.start()]
    for process in at_once:
        assert set(outcomes(process)[0].values()) <= {"built", "reused"}
    assert set(three.build()[0].values()) == {"reused"}
    for key, engine in three.engines().items():
        assert engine in (one.engines()[key], two.engines()[key])


def test_a_server_that_is_gone_costs_no_build(machines: list[Machine]) -> None:
    one, two, _ = machines
    one.build()
    one.server.kill()
    built, said = two.build("--timeout", "100")
    assert set(built.values()) == {"built"}
    assert said.count("this run goes on without it") == 1


def test_a_killed_machine_leaves_nothing_half_pushed(machines: list[Machine]) -> None:
    one, two, three = machines
    process = one.start()
    assert process.stderr is not None
    next(process.stderr)  # something is being built
    process.kill()
    process.communicate()
    assert set(two.build()[0].values()) <= {"built", "reused"}
    assert set(three.build()[0].values()) == {"reused"}
    assert three.engines() == two.engines()
