"""Pulling: the engine of an environment that runs on a host, put in place after everything about it
was verified. Nothing of an engine is ever loaded before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from engineforge.digest import Digest
from engineforge.errors import EngineForgeError, Untrusted, UsageError
from engineforge.plan.keys import plugins_of
from engineforge.promotion.artifact import EngineArtifact, entry_manifest
from engineforge.promotion.attest.strict import time_text
from engineforge.promotion.environment import Opened
from engineforge.promotion.ledger import Listed
from engineforge.promotion.placing import Place, Remembered, Seen
from engineforge.promotion.selecting import Candidate, Chosen, Host, select
from engineforge.promotion.state import State
from engineforge.promotion.vetting import (
    name_of,
    not_set_back,
    overridden,
    policy_holds,
    provenance_holds,
)
from engineforge.store.local import ENGINE
from engineforge.store.manifest import Manifest, StoredFile

_MOST_OF_A_MANIFEST = 16 << 20


class LoadFailed(EngineForgeError):
    """Whoever was to load a new engine could not: the one before it is still in its place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulled:
    """What lies at `path` now, and what it came from: event `number` of the ledger. `overridden`
    says by name, and why, which gates did not let it pass; `loaded` is what `load` returned.

    `changed` is False where the file was this very engine before.
    """

    path: Path
    engine: Digest
    size: int
    environment: str
    spec: str
    variant: str
    target: str
    number: int
    overridden: Mapping[str, str]
    changed: bool
    why: str
    others: Mapping[str, str]
    """Why it is this one, and by name why none of the others."""
    loaded: Any = None

    @property
    def name(self) -> str:
        return f"{self.environment}/{self.spec} {self.variant}@{self.target}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be pulled to `output`, a file or a folder that exists: of which spec, and which of
    its engines where a host leaves a choice. A `target` is fetched for whichever host.

    `remembered` is the file that says what was pulled last, by default beside the engine. With
    `no_overridden`, an engine that a gate refused is, whoever overrode it.
    """

    spec: str
    output: Path
    host: Host | None = None
    variant: str | None = None
    target: str | None = None
    remembered: Path | None = None
    no_overridden: bool = False

    def place(self) -> Place:
        return Place(self.output, self.remembered)


Said = Callable[[str], None]
Moved = Callable[[int, int], None]
"""Is told bytes so far and in all."""


@dataclass(frozen=True, slots=True)
class _Verified:
    """An engine that may be fetched."""

    listed: Listed
    artifact: EngineArtifact
    config: bytes
    manifest: Manifest
    chosen: Chosen

    @property
    def file(self) -> StoredFile:
        return self.manifest.files[ENGINE]


def pull(
    opened: Opened,
    wanted: Wanted,
    *,
    now: datetime,
    said: Said = lambda _: None,
    moved: Moved = lambda _done, _total: None,
    load: Callable[[Path], Any] | None = None,
    loaded: Digest | None = None,
) -> Pulled:
    """Have the engine of a spec that runs on the host in its place, in one step, after ledger,
    policy, provenance and every byte were verified; or leave what is there as it is.

    `load` is called with the engine, in a folder with its manifest, before it takes the place of
    the one before it, which is kept beside it from then on; not for the engine that is `loaded`
    already. Untrusted, PromotionRefused, StoreCorrupt or RemoteUnavailable where what is there must
    not or cannot be had; HostUnfit where no engine runs here; LoadFailed where `load` raises.
    """
    place = wanted.place()
    with place.alone(said):
        before = place.remembered()
        state = _state(opened, wanted.spec)
        not_set_back(state, before, place)
        found = _choose(opened, state, wanted)
        policy_holds(opened, state, found.listed)
        provenance_holds(opened, state, found.listed, now)
        let_in = overridden(state, found.listed, said, refused=wanted.no_overridden)
        changed = not place.has(found.file)
        result = _result(place, state, found, let_in, changed=changed)
        # What is needed of it in memory is there already: then it only is to be in its place.
        asked = None if loaded == found.file.sha256 else load
        with place.staged() as staged:
            if changed:
                chunks = opened.repository.stream(found.artifact.engine)
                place.fill(staged, found.file, chunks, found.config, moved)
            elif asked is not None:
                place.borrow(staged, found.config)
            if asked is not None:
                result = replace(result, loaded=_load(asked, staged / ENGINE, result))
            if changed:
                place.put(staged, keep_previous=load is not None)
            else:
                place.put_manifest(staged, found.config)
            place.remember(staged, _remembered(before, state, result, now))
        _tell_plugins(found, said)
        return result


def in_place(
    opened: Opened, wanted: Wanted, load: Callable[[Path], Any] | None = None
) -> Pulled | None:
    """What was pulled of the same spec from the same environment before, and lies there unchanged;
    nothing is asked of the environment. `load` as in `pull`."""
    place = wanted.place()
    with place.alone(lambda _: None):
        result = _pulled_before(place)
        if result is None or (result.environment, result.spec) != (
            opened.environment.name,
            wanted.spec,
        ):
            return None
        if load is None:
            return result
        manifest = place.manifest_for(StoredFile(result.size, result.engine))
        if manifest is None:
            return None
        with place.staged() as staged:
            place.borrow(staged, manifest)
            return replace(result, loaded=_load(load, staged / ENGINE, result))


def _pulled_before(place: Place) -> Pulled | None:
    said = dict(place.remembered().engine)
    try:
        engine = StoredFile(int(said["size"]), Digest(said["engine"]))
        if not place.has(engine):
            return None
        return Pulled(
            path=place.path,
            engine=engine.sha256,
            size=engine.size,
            environment=said["environment"],
            spec=said["spec"],
            variant=said["variant"],
            target=said["target"],
            number=int(said["number"]),
            overridden=dict(said["overridden"]),
            changed=False,
            why=f"pulled at {said['pulled']}",
            others={},
        )
    except (KeyError, TypeError, ValueError):
        return None


def _state(opened: Opened, spec: str) -> State:
    name = opened.environment.name
    state = opened.state(spec)
    if state is None:
        raise UsageError(
            f"'{name}' has no spec '{spec}'",
            hint=f"engineforge status says what it has, engineforge promote {spec} --to {name} "
            "promotes it",
        )
    return state


def _choose(opened: Opened, state: State, wanted: Wanted) -> _Verified:
    """Of the engines that are asked about, all are verified: what they say decides."""
    spec = name_of(state)
    known: dict[tuple[str, str], tuple[EngineArtifact, bytes, Manifest]] = {}
    candidates = []
    for listed in state.engines:
        name = (listed.variant, listed.target)
        recipe: Mapping[str, Any] = {}
        if wanted.variant in (None, listed.variant) and wanted.target in (None, listed.target):
            known[name] = _entry(opened, state, listed)
            recipe = known[name][2].key_document["recipe"]
        candidates.append(Candidate(variant=name[0], target=name[1], recipe=recipe))
    chosen = select(
        candidates, wanted.host, spec=spec, variant=wanted.variant, target=wanted.target
    )
    name = (chosen.candidate.variant, chosen.candidate.target)
    found = state.engine(*name)
    if found is None:
        raise AssertionError(f"{name} was chosen of others")
    return _Verified(found, *known[name], chosen)


def _entry(opened: Opened, state: State, listed: Listed) -> tuple[EngineArtifact, bytes, Manifest]:
    artifact = opened.engine(listed)
    if (artifact.spec, artifact.variant, artifact.target) != (
        state.spec,
        listed.variant,
        listed.target,
    ):
        raise Untrusted(
            f"what the ledger of '{name_of(state)}' calls {listed.name} is {artifact.label}"
        )
    if artifact.config.size > _MOST_OF_A_MANIFEST:
        raise Untrusted(f"the config of {artifact.label} has {artifact.config.size} bytes")
    config = b"".join(opened.repository.stream(artifact.config))
    return artifact, config, entry_manifest(artifact, config)


def _result(
    place: Place,
    state: State,
    found: _Verified,
    let_in: Mapping[str, str],
    *,
    changed: bool,
) -> Pulled:
    return Pulled(
        path=place.path,
        engine=found.file.sha256,
        size=found.file.size,
        environment=state.environment,
        spec=state.spec,
        variant=found.listed.variant,
        target=found.listed.target,
        number=state.number,
        overridden=let_in,
        changed=changed,
        why=found.chosen.words,
        others=found.chosen.others,
    )


def _load(load: Callable[[Path], Any], path: Path, result: Pulled) -> Any:  # noqa: ANN401
    try:
        return load(path)
    except Exception as error:
        raise LoadFailed(
            f"the new engine of {result.name}, number {result.number}, does not load: {error}",
            hint=f"'{result.path}' is what it was before",
        ) from error


def _remembered(before: Remembered, state: State, result: Pulled, now: datetime) -> Remembered:
    seen = Seen(number=state.number, event=state.events[-1])
    return Remembered(
        seen={**before.seen, name_of(state): seen},
        engine={
            "environment": result.environment,
            "spec": result.spec,
            "variant": result.variant,
            "target": result.target,
            "number": result.number,
            "engine": result.engine,
            "size": result.size,
            "overridden": dict(result.overridden),
            "pulled": time_text(now),
        },
    )


def _tell_plugins(found: _Verified, said: Said) -> None:
    if plugins := plugins_of(found.manifest.key_document["recipe"]["builder"]):
        said(f"note: the engine needs the plugin libraries {', '.join(plugins)}, which stay apart")
