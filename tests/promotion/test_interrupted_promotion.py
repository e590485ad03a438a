"""Promotions and rollbacks in registries, interrupted at every request that they make: the tag of a
spec stands for the old state or the new one, whole, and doing it once more ends it."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("urllib3", reason="python -m pip install 'engineforge[promotion]'")
pytest.importorskip("cryptography", reason="python -m pip install 'engineforge[promotion]'")

from engineforge.digest import Digest
from engineforge.promotion.artifact import Artifact, read_artifact
from engineforge.promotion.attest.attestation import (
    Attestation,
    read_attestation,
    sign_attestation,
)
from engineforge.promotion.attest.keys import (
    PrivateKey,
    generate,
    open_public_key,
    read_private_key,
)
from engineforge.promotion.attest.provenance import BUILDER, PROVENANCE, Provenance, Resource
from engineforge.promotion.attest.results import APPROVAL, SUMMARY, Approval
from engineforge.promotion.attest.statement import Statement, of_engine
from engineforge.promotion.candidate import Candidate, Fresh, InSource, NotInSource
from engineforge.promotion.environment import Opened, open_environment
from engineforge.promotion.ledger import Origin
from engineforge.promotion.oci.copying import Told, copy_artifact, push_artifact
from engineforge.promotion.oci.registry import Registry
from engineforge.promotion.oci.repository import Repository
from engineforge.promotion.promoting import Offered, Promoted, Who, judge, promote
from engineforge.promotion.rolling_back import rollback
from engineforge.promotion.state import State
from engineforge.promotion.verifying import verified
from engineforge.spec.environments import Environment, read_environments
from engineforge.store.far.objects import RemoteUnavailable
from engineforge.store.local import LocalStore
from tests.promotion.engines import PLAN, artifact_of, engine_entry
from tests.promotion.oci.cutting_proxy import CUTS, Cut, CuttingProxy, cutting_proxy
from tests.promotion.oci.registries import RunningRegistry, registry

__all__ = ["registry"]

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=timezone.utc)
ENVIRONMENTS = """\
dev:
  store: oci://{host}/{name}/dev
  signers: {{ci: ci.pub}}
  gates: {{freshness: {{}}, provenance: {{}}}}
staging:
  store: oci://{host}/{name}/staging
  from: dev
  signers: {{ci: ci.pub, alice: alice.pub}}
  promoters: [ci]
  gates: {{freshness: {{}}, provenance: {{signed_by: [ci]}}, approval: {{by: [alice]}}}}
apart:
  store: apart
  signers: {{ci: ci.pub, alice: alice.pub}}
  gates: {{freshness: {{}}, provenance: {{}}}}
beside:
  store: oci://{host}/{name}/beside
  from: apart
  signers: {{ci: ci.pub}}
  gates: {{freshness: {{}}, provenance: {{}}}}
"""


class Rig:
    """Environments in one registry and a folder, as who promotes sees them through a proxy, and
    as everybody else does; engines of a spec, each different."""

    def __init__(self, root: Path, registry: RunningRegistry, proxy: CuttingProxy) -> None:
        self.root, self.registry, self.proxy = root, registry, proxy
        self.store = LocalStore(root / "cache")
        self.keys: dict[str, PrivateKey] = {}
        for name in ("ci", "alice"):
            private, public = generate("ecdsa-p256")
            self.keys[name] = read_private_key(private, called=name, password=None)
            (root / f"{name}.pub").write_bytes(public)
        text = ENVIRONMENTS.format(host=registry.host, name=f"cut/{secrets.token_hex(6)}")
        (root / "environments.yaml").write_text(text)
        self._environments = read_environments(root / "environments.yaml")
        self._count = 0

    def direct(self, name: str) -> Opened:
        return self._opened(self._environments[name], self.registry.host)

    def through(self, name: str) -> Opened:
        """The same without pauses between tries, behind the proxy."""
        return self._opened(self._environments[name], self.proxy.host)

    def _opened(self, environment: Environment, host: str) -> Opened:
        if not environment.store.startswith("oci://"):
            return open_environment(environment, root=self.root, environ={})
        url = environment.store.replace(self.registry.host, host)
        repository = Registry.open(url, environment={}, said=lambda _: None, wait=lambda _: None)
        keys = {
            name: open_public_key(each.key, root=self.root)
            for name, each in environment.signers.items()
        }
        return Opened(environment, repository, keys)

    def engine(self) -> Artifact:
        self._count += 1
        contents = {"model.engine": b"engine %d" % self._count, "build.log": b"log"}
        return artifact_of(engine_entry(self.store, contents, model=b"%d" % self._count))

    def who(self) -> Who:
        self._count += 1
        now = NOW + timedelta(minutes=self._count)
        return Who(key=self.keys["ci"], by="ci", reason="", now=now)

    def statement(self, kind: str, predicate: Mapping[str, object], of: Artifact) -> Statement:
        read = read_artifact(of.manifest)
        return of_engine(
            kind, predicate, label="fp16@h200", manifest=read.digest, engine=read.engine.digest
        )

    def provenance(self, of: Artifact) -> bytes:
        said = Provenance(
            spec="net",
            variant="fp16",
            target="h200",
            internal={"key": "a key"},
            dependencies=(Resource.of("model.onnx", PLAN),),
            builder=BUILDER,
            versions={"engineforge": "0"},
            invocation="1",
            started=NOW - timedelta(days=2),
            finished=NOW - timedelta(days=1),
            byproducts=(),
        )
        statement = self.statement(PROVENANCE, said.to_predicate(), of)
        return sign_attestation(statement, self.keys["ci"])

    def approval(self, of: Artifact) -> bytes:
        said = Approval(
            environment="staging",
            spec="net",
            variant="fp16",
            target="h200",
            by="alice",
            time=NOW,
            reason="",
        )
        return sign_attestation(
            self.statement(APPROVAL, said.to_predicate(), of), self.keys["alice"]
        )

    def offered(
        self, artifact: Artifact, to: Opened, source: Opened | None, added: Iterable[bytes] = ()
    ) -> Offered:
        """As a project offers it, from a cache or from another environment."""
        new = tuple(read_attestation(each, to.keys) for each in added)
        known: tuple[Attestation, ...] = ()
        if source is not None:
            state = source.state("net")
            assert state is not None
            known = tuple(source.attestations(state.engines[0], to.keys))
        read = read_artifact(artifact.manifest)
        send: Callable[[Repository, Told], None]
        send = partial(_push, artifact)
        if source is not None:
            send = partial(_copy, read.digest, source)
        return Offered(
            candidate=Candidate(
                spec="net",
                file="net.yaml",
                variant="fp16",
                target="h200",
                manifest=read.digest,
                engine=read.engine.digest,
                plan=read.plan,
                key=read.key,
            ),
            descriptor=artifact.descriptor,
            attestations=(*known, *new),
            source=NotInSource("it comes from the local store")
            if source is None
            else InSource(environment=source.environment.name, since=NOW),
            freshness=Fresh(),
            send=send,
        )

    def promote(
        self,
        artifact: Artifact,
        to: Opened,
        source: Opened | None = None,
        added: Iterable[bytes] = (),
    ) -> Promoted:
        who = self.who()
        offered = self.offered(artifact, to, source, added)
        judged = judge(to, "net", [offered], keeps=lambda _: True, overridden=(), now=who.now)
        origin = None if source is None else Origin(environment=source.environment.name, number=1)
        return promote(to, judged, who, origin=origin)


def _push(artifact: Artifact, to: Repository, told: Told) -> None:
    push_artifact(artifact, to, told)


def _copy(manifest: Digest, source: Opened, to: Repository, told: Told) -> None:
    copy_artifact(manifest, source.repository, to, told)


@dataclass(frozen=True)
class Step:
    """Something to do in an environment behind the proxy; what it then has of the spec, and what is
    said of that, by the types of the statements."""

    environment: str
    do: Callable[[], Promoted]
    engine: Digest
    said: frozenset[str]


def from_store(rig: Rig) -> Step:
    artifact = rig.engine()
    added = [rig.provenance(artifact)]
    return Step(
        "dev",
        lambda: rig.promote(artifact, rig.through("dev"), added=added),
        artifact.descriptor.digest,
        frozenset({PROVENANCE, SUMMARY}),
    )


def _in_dev(rig: Rig, name: str) -> Artifact:
    artifact, opened = rig.engine(), rig.direct(name)
    rig.promote(artifact, opened, added=[rig.provenance(artifact)])
    if name == "dev":
        opened.attach(artifact.descriptor, rig.approval(artifact))
    return artifact


def within_a_registry(rig: Rig) -> Step:
    artifact = _in_dev(rig, "dev")
    return Step(
        "staging",
        lambda: rig.promote(artifact, rig.through("staging"), rig.through("dev")),
        artifact.descriptor.digest,
        frozenset({PROVENANCE, SUMMARY, APPROVAL}),
    )


def from_a_folder(rig: Rig) -> Step:
    artifact = _in_dev(rig, "apart")
    return Step(
        "beside",
        lambda: rig.promote(artifact, rig.through("beside"), rig.direct("apart")),
        artifact.descriptor.digest,
        frozenset({PROVENANCE, SUMMARY}),
    )


def rolled_back(rig: Rig) -> Step:
    for _ in range(2):
        artifact = rig.engine()
        rig.promote(artifact, rig.direct("dev"), added=[rig.provenance(artifact)])
    before = rig.direct("dev").state("net")
    assert before is not None
    number = before.number - 1
    return Step(
        "dev",
        lambda: rollback(rig.through("dev"), "net", number, rig.who(), overridden=()),
        rig.direct("dev").past("net", number).engines[0].manifest,
        frozenset({PROVENANCE, SUMMARY}),
    )


STEPS = (from_store, within_a_registry, from_a_folder, rolled_back)


@pytest.fixture(scope="module")
def proxy(registry: RunningRegistry) -> Iterator[CuttingProxy]:
    with cutting_proxy(registry.host) as found:
        yield found


@pytest.fixture
def rig(tmp_path: Path, registry: RunningRegistry, proxy: CuttingProxy) -> Rig:
    proxy.heal()
    return Rig(tmp_path, registry, proxy)


def stands(opened: Opened) -> State | None:
    """What an environment has; all of it is there, verifies, and would be pulled."""
    state = opened.state("net")
    if state is not None:
        (engine,) = state.engines
        assert verified(opened, state, engine, NOW + timedelta(days=9)).lacking == ()
    return state


def said_of(opened: Opened, state: State | None) -> dict[Digest, str]:
    """The types of the statements about what an environment has."""
    return {
        each.digest: each.statement.predicate_type
        for engine in (() if state is None else state.engines)
        for each in opened.attestations(engine)
    }


def requests_of(rig: Rig, made: Callable[[Rig], Step]) -> list[str]:
    """All that a step asks, when it was done once before; it is not ended by a cut."""
    made(rig).do()
    step = made(rig)
    rig.proxy.heal()
    step.do()
    return list(rig.proxy.requests)


def cut_and_ended(rig: Rig, step: Step, at: int, how: Cut, *, onwards: bool, ended: bool) -> None:
    """Cut, and done once more if it is to be `ended`; what others see is whole all the time."""
    opened = rig.direct(step.environment)
    before = opened.state("net")
    assert before is not None
    said = said_of(opened, before)
    rig.proxy.cut(at, how, onwards=onwards)
    if onwards:
        with pytest.raises(RemoteUnavailable):
            step.do()
    else:
        step.do()
    where = f"{at}, {how.name}, {rig.proxy.requests[at - 1]}"
    rig.proxy.heal()
    after = stands(opened)
    assert after is not None, where
    if not ended:
        assert after.index == before.index or after.engines[0].manifest == step.engine, where
        return
    if onwards and after.index == before.index:
        assert step.do().changed, where
    else:
        assert not step.do().changed, where
        assert opened.state("net") == after, where
    after = stands(opened)
    assert after is not None, where
    assert after.events[:-1] == before.events, where
    assert after.engines[0].manifest == step.engine, where
    assert set(said_of(opened, after).values()) == step.said, where
    assert opened.past("net", after.number) == after, where
    assert said.items() <= said_of(opened, before).items(), where


def writes(request: str) -> bool:
    return request.startswith(("PUT", "POST", "PATCH", "DELETE"))


def cuts(requests: list[str], every: int) -> Iterator[tuple[int, Cut]]:
    """At which requests, and how: in turns. What writes is cut before and after it has done so,
    which for what reads is one."""
    for count, at in enumerate(range(1, len(requests) + 1, every)):
        yield at, CUTS[count % len(CUTS)]
        if writes(requests[at - 1]):
            yield at, CUTS[(count + 2) % len(CUTS)]


def all_verified(rig: Rig, step: Step) -> bool:
    """Whether each event of the ledger is there, and follows the one before it."""
    opened = rig.direct(step.environment)
    state = opened.state("net")
    assert state is not None
    return len(opened.history(state)) == state.number


def cut_at_each(made: Callable[[Rig], Step], every: int, rig: Rig, *, onwards: bool) -> None:
    """Where the network goes while something is read, a registry is left as by the write before
    that, so that of all requests only these are followed by the rest."""
    requests = requests_of(rig, made)
    step = made(rig)
    for at, how in cuts(requests, every):
        ended = not onwards or every > 1 or writes(requests[at - 1])
        cut_and_ended(rig, step, at, how, onwards=onwards, ended=ended)
        if ended or any(map(writes, requests[:at])):
            step = made(rig)
    step.do()
    assert all_verified(rig, step)


SOME = pytest.mark.parametrize("every", [29, pytest.param(1, marks=pytest.mark.slow)])


@pytest.mark.parametrize("every", [31, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("made", STEPS)
def test_one_cut_at_any_request_is_got_over(
    made: Callable[[Rig], Step], every: int, rig: Rig
) -> None:
    cut_at_each(made, every, rig, onwards=False)


@SOME
@pytest.mark.parametrize("made", STEPS)
def test_where_the_network_goes_at_any_request_the_pointer_is_the_old_or_the_new_one(
    made: Callable[[Rig], Step], every: int, rig: Rig
) -> None:
    cut_at_each(made, every, rig, onwards=True)


@SOME
def test_of_a_first_promotion_there_is_nothing_or_all(
    every: int, tmp_path: Path, registry: RunningRegistry, proxy: CuttingProxy
) -> None:
    def rig(name: str) -> Rig:
        """Of environments that have nothing."""
        (tmp_path / name).mkdir()
        return Rig(tmp_path / name, registry, proxy)

    first = rig("first")
    proxy.heal()
    from_store(first).do()
    for at, how in cuts(list(proxy.requests), every):
        tried = rig(f"{at}-{how.name}")
        step, opened = from_store(tried), tried.direct("dev")
        proxy.cut(at, how, onwards=True)
        with pytest.raises(RemoteUnavailable):
            step.do()
        proxy.heal()
        there = stands(opened)
        assert step.do().changed == (there is None), at
        state = stands(opened)
        assert state is not None
        assert (state.number, len(state.events), opened.numbers("net")) == (1, 1, [1]), at
        assert set(said_of(opened, state).values()) == step.said, at


def test_whose_rollback_may_have_been_done_is_told_how_to_do_it_once(rig: Rig) -> None:
    """A second one without a number would roll back the first."""
    rolled_back(rig)

    def cut_at_the_pointer(request: str) -> None:
        if request.startswith("PUT") and request.endswith("/manifests/net"):
            rig.proxy.cut(1, Cut.BEFORE_ANSWER, onwards=True)

    rig.proxy.on_request = cut_at_the_pointer
    with pytest.raises(RemoteUnavailable, match="may have been done, or not") as caught:
        rollback(rig.through("dev"), "net", None, rig.who(), overridden=())
    rig.proxy.on_request = lambda _: None
    rig.proxy.heal()
    told = re.search(r"--number (\d+)", caught.value.hint or "")
    assert told is not None
    done = rollback(rig.through("dev"), "net", int(told[1]), rig.who(), overridden=())
    assert not done.changed
    assert done.state.event.action == "rollback"
    assert rig.direct("dev").numbers("net") == [1, 2, 3]
