"""An environment, opened: what it has of each spec, verified before it is believed, and the one way
in which that changes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from engineforge.digest import Digest
from engineforge.errors import PromotionRefused, Untrusted
from engineforge.promotion.artifact import EngineArtifact, described, read_artifact
from engineforge.promotion.attest.attestation import (
    Attestation,
    read_attestation,
    sign_attestation,
)
from engineforge.promotion.attest.bundle import MEDIA_TYPE as BUNDLE
from engineforge.promotion.attest.keys import PublicKey, SigningKey, open_public_key
from engineforge.promotion.attest.strict import time_text
from engineforge.promotion.ledger import Event, Listed, statement_of
from engineforge.promotion.oci.documents import (
    EMPTY_BYTES,
    EMPTY_CONFIG,
    MANIFEST,
    TITLE,
    BadDocument,
    Descriptor,
    ImageIndex,
    ImageManifest,
)
from engineforge.promotion.oci.opening import open_repository
from engineforge.promotion.oci.repository import Repository
from engineforge.promotion.state import LEDGER, NAME, STATE, Reader, State, readable
from engineforge.spec.environments import Environment

_TRIES = 5
_MOST_OF_A_CONFIG = 16 << 20
# What a tag may be, by the distribution specification, less what has a meaning of its own here.
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_TAKEN = re.compile(r"sha256-[0-9a-f]{64}|.*--\d+|.*\.claim")


def tag_of(spec: str) -> str:
    """The tag of a spec: its name, where that can be one; else what is left of it, and a digest."""
    if _TAG.fullmatch(spec) and not _TAKEN.fullmatch(spec):
        return spec
    short = re.sub(r"[^A-Za-z0-9_]+", "-", spec).strip("-")[:60] or "spec"
    # Of a file whose name is no UTF-8, too.
    return f"{short}-{hashlib.sha256(spec.encode(errors='surrogatepass')).hexdigest()[:12]}"


class Opened:
    """For all threads of a process. `said` is told of what does not count and may matter."""

    def __init__(
        self,
        environment: Environment,
        repository: Repository,
        keys: Mapping[str, PublicKey],
        said: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.environment = environment
        self.repository = repository
        self.keys = keys
        self._said = said
        self._reader = Reader(environment, repository, keys)

    def state(self, spec: str) -> State | None:
        """What is there of a spec; None where nothing ever was.

        Untrusted, BlobCorrupt or Gone unless index, ledger and signature agree, and the pointer was
        not set back.
        """
        tag = tag_of(spec)
        for _ in range(_TRIES):
            index = self.repository.resolve(tag)
            if index is None:
                if not (numbers := self.numbers(spec)):
                    return None
                if self.repository.resolve(tag) is not None:
                    continue  # it was just being promoted for the first time
                raise Untrusted(
                    f"'{spec}' was promoted to {self.environment.name}, and its tag '{tag}' is "
                    "gone",
                    hint=_set_back(tag, numbers[-1]),
                )
            state = self._reader.state(spec, index)
            newest, same = self._newest(state)
            if newest == state.number and same:
                return state
            if self.repository.resolve(tag) == index:
                raise Untrusted(
                    f"the tag '{tag}' of {self.environment.name} stands for number {state.number} "
                    f"of '{spec}', and there is "
                    + ("a later one" if newest > state.number else "another one of that number"),
                    hint=_set_back(tag, newest),
                )
        raise PromotionRefused(f"'{spec}' changes in {self.environment.name} again and again")

    def _newest(self, state: State) -> tuple[int, bool]:
        """The highest number that a spec is known to have had, and whether the state is the one of
        its own number. A tag of its own is missing where a promotion was killed before that, and
        where the pointer was set back to what is kept no longer: then all tags are looked at."""
        tag = tag_of(state.spec)
        if self.repository.resolve(f"{tag}--{state.number + 1}") is not None:
            return state.number + 1, True
        mine = self.repository.resolve(f"{tag}--{state.number}")
        if mine is None:
            return max([state.number, *self.numbers(state.spec)]), True
        return state.number, mine == state.index

    def numbers(self, spec: str) -> list[int]:
        """The numbers of the states of a spec that have a tag, sorted."""
        numbered = re.compile(re.escape(tag_of(spec)) + r"--([1-9][0-9]{0,8})")
        found = (numbered.fullmatch(tag) for tag in self.repository.tags())
        return sorted(int(each[1]) for each in found if each)

    def past(self, spec: str, number: int) -> State:
        """An earlier state; PromotionRefused where it is kept no longer."""
        index = self.repository.resolve(f"{tag_of(spec)}--{number}")
        if index is None:
            raise PromotionRefused(
                f"{self.environment.name} has no number {number} of '{spec}', or no longer",
                hint=f"engineforge history {spec} --in {self.environment.name}",
            )
        state = self._reader.state(spec, index)
        if state.number != number:
            raise Untrusted(f"what is tagged as number {number} of '{spec}' is {state.number}")
        return state

    def history(self, state: State) -> list[tuple[Event, frozenset[str]]]:
        """All events of a spec, oldest first, with who signed each; each is verified."""
        found: list[tuple[Event, frozenset[str]]] = []
        before: Digest | None = None
        for number, layer in enumerate(state.ledger.layers, 1):
            event, signed_by = self._reader.event(layer, state.spec)
            if (event.number, event.previous) != (number, before):
                raise Untrusted(
                    f"event {number} in the ledger of '{state.spec}' in {self.environment.name} "
                    "does not follow the one before it"
                )
            if found and event.time < found[-1][0].time:
                raise Untrusted(
                    f"event {number} in the ledger of '{state.spec}' in {self.environment.name} "
                    "is older than the one before it"
                )
            found.append((event, signed_by))
            before = layer.digest
        return found

    def event(self, state: State, number: int) -> Event:
        """One event of a ledger."""
        event, _ = self._reader.event(state.ledger.layers[number - 1], state.spec)
        return event

    def specs(self) -> list[str]:
        """The names of all specs that were ever promoted here, sorted; tags of others are none of
        ours."""
        found = []
        for tag in self.repository.tags():
            if _TAKEN.fullmatch(tag) or (index := self.repository.resolve(tag)) is None:
                continue
            data = self._reader.manifest(index, f"what the tag '{tag}' stands for")
            try:
                read = ImageIndex.from_bytes(data)
            except BadDocument:
                continue
            # Nobody signed what it is called here, and all sorts of things may be printed of it.
            name = read.annotations.get(f"{NAME}spec", "")
            if read.artifact_type == STATE and name.isprintable() and tag_of(name) == tag:
                found.append(name)
        return sorted(found)

    def engine(self, listed: Listed) -> EngineArtifact:
        """The manifest of an engine."""
        artifact = read_artifact(
            self._reader.manifest(listed.manifest, f"the engine {listed.name}")
        )
        said = (artifact.engine.digest, artifact.key, artifact.plan)
        if said != (listed.engine, listed.key, listed.plan):
            raise Untrusted(
                f"the manifest of the engine {listed.name} in {self.environment.name} is not of "
                "the engine that the ledger names"
            )
        if (artifact.variant, artifact.target) != (listed.variant, listed.target):
            raise Untrusted(
                f"what the ledger of {self.environment.name} calls {listed.name} is "
                f"{artifact.label}"
            )
        return artifact

    def describe(self, spec: str, listed: Listed) -> Descriptor:
        """What an index has of an engine that is there, by its own manifest: what an index says
        itself, nobody signed. Untrusted for an engine of another spec."""
        artifact = self.engine(listed)
        if artifact.spec != spec:
            raise Untrusted(
                f"what the ledger of '{spec}' in {self.environment.name} calls {listed.name} is "
                f"{artifact.label}"
            )
        return described(artifact)

    def attestations(
        self, listed: Listed, keys: Mapping[str, PublicKey] | None = None
    ) -> list[Attestation]:
        """What is said of an engine by the keys that count here, or only by these. What others say,
        or of another engine, does not count, and is told."""
        found = []
        for each in self.repository.referrers(listed.manifest):
            if each.artifact_type != BUNDLE:
                continue
            what = (
                f"an attestation of {listed.name} in {self.environment.name} ({each.digest.short})"
            )
            data = self._reader.manifest(each.digest, what)
            try:
                found.append(self._attestation(data, listed, self.keys if keys is None else keys))
            except Untrusted as error:
                self._said(f"note: {what} does not count: {readable(error)}")
        return found

    def _attestation(
        self, data: bytes, listed: Listed, keys: Mapping[str, PublicKey]
    ) -> Attestation:
        try:
            manifest = ImageManifest.from_bytes(data)
        except BadDocument as error:
            raise Untrusted(f"it cannot be read: {error}") from error
        if manifest.subject is None or manifest.subject.digest != listed.manifest:
            raise Untrusted("it is attached to another engine")
        if len(manifest.layers) != 1:
            raise Untrusted(f"it has {len(manifest.layers)} layers, expected 1")
        attestation = read_attestation(self._reader.small(manifest.layers[0]), keys)
        if not {listed.manifest, listed.engine} <= attestation.statement.subject_digests:
            raise Untrusted("it is about another engine")
        return attestation

    def attach(self, engine: Descriptor, bundle: bytes) -> None:
        """Attach an attestation to the manifest of an engine that is there."""
        blob = Descriptor.of(bundle, BUNDLE)
        self._push(blob, bundle)
        self._push(EMPTY_CONFIG, EMPTY_BYTES)
        subject = Descriptor(media_type=engine.media_type, digest=engine.digest, size=engine.size)
        made = ImageManifest(
            artifact_type=BUNDLE, config=EMPTY_CONFIG, layers=(blob,), subject=subject
        )
        self.repository.put_manifest(made.to_bytes())

    def advance(
        self,
        before: State | None,
        event: Event,
        described: Mapping[Digest, Descriptor],
        key: SigningKey,
    ) -> State:
        """Have an environment be as an event says, whose engines are there: `described` has their
        descriptors (`describe`). PromotionRefused where another process was first."""
        if before is not None:
            self.number(before)  # or a pointer that was set back to the one before it is not seen
        bundle = sign_attestation(statement_of(event), key)
        line = Descriptor.of(
            bundle, BUNDLE, annotations={TITLE: f"event-{event.number}.sigstore.json"}
        )
        self._push(line, bundle)
        self._push(EMPTY_CONFIG, EMPTY_BYTES)
        ledger = ImageManifest(
            artifact_type=LEDGER,
            config=EMPTY_CONFIG,
            layers=(*(before.ledger.layers if before else ()), line),
            annotations={f"{NAME}spec": event.spec, f"{NAME}environment": event.environment},
        )
        written = ledger.to_bytes()
        self.repository.put_manifest(written)
        index = ImageIndex(
            artifact_type=STATE,
            manifests=(
                *(described[each.manifest] for each in event.engines),
                Descriptor.of(written, MANIFEST, artifact_type=LEDGER),
            ),
            annotations={
                f"{NAME}spec": event.spec,
                f"{NAME}environment": event.environment,
                f"{NAME}number": str(event.number),
                "org.opencontainers.image.created": time_text(event.time),
            },
        )
        digest = self.repository.put_manifest(index.to_bytes())
        state = self._reader.state(event.spec, digest)  # read back, as everybody will read it
        tag = tag_of(event.spec)
        if not self.repository.move(tag, digest, before.index if before else None):
            raise PromotionRefused(
                f"'{event.spec}' in {event.environment} was changed by another promotion meanwhile",
                hint="see engineforge history, and run again: what is there already is not sent "
                "again",
            )
        self.number(state)
        return state

    def number(self, state: State) -> None:
        """Have a state found by its number, where a promotion was killed before it did that."""
        tag = f"{tag_of(state.spec)}--{state.number}"
        if self.repository.resolve(tag) is None:
            self.repository.tag(tag, state.index)

    def _push(self, blob: Descriptor, data: bytes) -> None:
        if not self.repository.has(blob):
            self.repository.push(blob, lambda start: iter([data[start:]]))


def config_of(opened: Opened, artifact: EngineArtifact) -> bytes:
    """The config of an engine, which is the manifest of its entry; Untrusted for one too large."""
    if artifact.config.size > _MOST_OF_A_CONFIG:
        raise Untrusted(f"the config of {artifact.label} has {artifact.config.size} bytes")
    return b"".join(opened.repository.stream(artifact.config))


def open_environment(
    environment: Environment,
    *,
    root: Path,
    environ: Mapping[str, str],
    said: Callable[[str], None] = lambda _: None,
) -> Opened:
    """Open an environment whose paths are from `root` on, its credentials from `environ`; nothing
    is asked of it yet. UsageError or HostUnfit where that cannot be."""
    repository = open_repository(environment.store, root=root, environment=environ, said=said)
    keys = {
        name: open_public_key(each.key, root=root) for name, each in environment.signers.items()
    }
    return Opened(environment, repository, keys, said)


def _set_back(tag: str, number: int) -> str:
    return (
        "somebody changed tags by other means, maybe for an old engine to run again: look at the "
        f"registry's log, and have '{tag}' stand for what '{tag}--{number}' stands for once more"
    )
