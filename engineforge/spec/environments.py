"""Environments, as `environments.yaml` beside the targets names them: where each is, whose
signatures count there, and what an engine has to show to get in."""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Literal, cast

from engineforge.digest import Digest
from engineforge.errors import Problem, SpecError, UsageError
from engineforge.spec.load import Document, Place, load
from engineforge.spec.salvage import salvage
from engineforge.spec.validate import did_you_mean, validate

_HINT = (
    "name environments in it, such as dev: "
    "{store: ../environments/dev, signers: {ci: keys/ci.pub}, "
    "gates: {freshness: {}, provenance: {}}}"
)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """A key whose signatures count, under a person's or a machine's name: a public key file (PEM),
    as a path from the specs folder, or the URI of a key in a KMS. After the day `not_after` no new
    signature of it counts."""

    name: str
    key: str
    not_after: date | None = None

    def counts_at(self, time: datetime) -> bool:
        """Whether what it signed at a time counts; days are those of UTC."""
        return self.not_after is None or time.astimezone(timezone.utc).date() <= self.not_after


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyGate:
    """Its accuracy check passed: of the converted `model`, or of the `engine` itself; on the data
    with one of these digests, or (empty) on whichever its spec names."""

    of: Literal["model", "engine"] = "model"
    data: tuple[Digest, ...] = ()
    signed_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyGate:
    """It was measured on a GPU of its target, in milliseconds per inference; and its median is at
    most so many percent over that of the engine that it replaces."""

    max_p99_ms: float | None = None
    max_median_ms: float | None = None
    max_slower_percent: float | None = None
    signed_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadGate:
    """A fresh process loaded and ran it on a GPU of its target."""

    signed_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenanceGate:
    """How it was built is told, and signed by one of these signers."""

    signed_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AgeGate:
    """So long it has been in the source environment."""

    least: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalGate:
    """So many of these people approved of just this engine for just this environment."""

    by: tuple[str, ...]
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class FreshnessGate:
    """It is what the specs ask for today."""


Gate = (
    AccuracyGate | LatencyGate | LoadGate | ProvenanceGate | AgeGate | ApprovalGate | FreshnessGate
)
GATES: Mapping[str, type[Gate]] = {
    "provenance": ProvenanceGate,
    "freshness": FreshnessGate,
    "accuracy": AccuracyGate,
    "latency": LatencyGate,
    "load_test": LoadGate,
    "age": AgeGate,
    "approval": ApprovalGate,
}
"""The gates by the names that they have in `environments.yaml`, in the order they are asked in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How many earlier states of a spec can be rolled back to: at least `keep`, and those that are
    not older than `days`."""

    keep: int = 10
    days: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """`store` is `oci://registry/repository`, a bucket's URL or a folder from the specs folder on.
    What is promoted to it comes from the environment `source`, or (None) from the local store.
    `promoters` are the names of the signers who may promote; `signed_by` of a gate that names
    nobody are all signers. No gates: nothing gets in."""

    name: str
    store: str
    source: str | None
    signers: Mapping[str, Signer]
    promoters: tuple[str, ...]
    gates: Mapping[str, Gate]
    retention: Retention


def read_environments(file: Path) -> dict[str, Environment]:
    """The environments of a file by name; SpecError with all that is wrong with it, UsageError
    where there is none."""
    try:
        environments, problems = load_environments(file)
    except FileNotFoundError:
        raise UsageError(f"there is no '{file}'", hint=_HINT) from None
    if problems:
        raise SpecError(problems)
    return environments


def load_environments(file: Path) -> tuple[dict[str, Environment], list[Problem]]:
    """The environments of a file by name, without those of a wrong form, and all that is wrong.
    FileNotFoundError where there is no such file."""
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        return {}, [Problem(file=str(file), message=f"cannot be read: {error.strerror}")]
    document, problems = load(str(file), data)
    if document is None:
        return {}, problems
    said = {problem.path for problem in problems}
    problems += [each for each in validate(_KIND, document) if each.path not in said]
    left = salvage(_KIND, document) if problems else document
    if left is None:
        return {}, problems
    named = cast("Mapping[str, Any]", document.value)
    environments, found = parse_environments(left, others=named.keys())
    return environments, [*problems, *found]


_KIND = "environments"


def parse_environments(
    document: Document, *, others: Collection[str] = ()
) -> tuple[dict[str, Environment], list[Problem]]:
    """The environments of a valid document, by name, and what the schema cannot say is wrong.
    `others` are environments that the file has as well, and that are left out for their form."""
    raw = cast("dict[str, dict[str, Any]]", document.value)
    problems: list[Problem] = []
    environments = {
        name: _environment(name, each, Place(document, (name,)), problems)
        for name, each in raw.items()
    }
    names = {*raw, *others}
    for name, environment in environments.items():
        source = environment.source
        if source is not None and source not in names:
            message = f"there is no environment '{source}'"
            hint = did_you_mean(source, names - {name})
            problems.append(document.problem((name, "from"), message, hint))
    problems += _cycles(document, environments)
    problems += _in_one_store(document, environments)
    return environments, problems


def _environment(
    name: str, raw: Mapping[str, Any], place: Place, problems: list[Problem]
) -> Environment:
    signers = {
        signer: _signer(signer, each, place.below("signers", signer), problems)
        for signer, each in raw["signers"].items()
    }
    problems += _with_one_key(signers, place.below("signers"))
    promoters = tuple(raw.get("promoters", signers))
    problems += _no_signers(promoters, signers, place.below("promoters"))
    gates: dict[str, Gate] = {}
    for gate in GATES:
        if gate not in raw["gates"]:
            continue
        given, at = raw["gates"][gate], place.below("gates", gate)
        gates[gate] = _gate(gate, given)
        for key in ("signed_by", "by"):
            problems += _no_signers(given.get(key, ()), signers, at.below(key))
        if gate == "approval" and given.get("count", 1) > len(given["by"]):
            message = f"expected at most the {len(given['by'])} of 'by', found {given['count']}"
            problems.append(at.problem(message, None, "count"))
        if gate == "approval" and "from" not in raw:
            message = f"'{name}' takes engines from no environment in which they could be approved"
            problems.append(at.problem(message, "write from: ENVIRONMENT, or take the gate out"))
        if gate == "age" and "from" not in raw:
            message = f"'{name}' takes engines from no environment in which they could grow old"
            problems.append(at.problem(message, "write from: ENVIRONMENT, or take the gate out"))
    return Environment(
        name=name,
        store=raw["store"],
        source=raw.get("from"),
        signers=signers,
        promoters=promoters,
        gates=gates,
        retention=Retention(**raw.get("retention", {})),
    )


def _signer(name: str, raw: Any, place: Place, problems: list[Problem]) -> Signer:  # noqa: ANN401
    if isinstance(raw, str):
        return Signer(name=name, key=raw)
    not_after = None
    if (text := raw.get("not_after")) is not None:
        try:
            not_after = date.fromisoformat(text)
        except ValueError:
            problems.append(place.problem(f"there is no day '{text}'", None, "not_after"))
    return Signer(name=name, key=raw["key"], not_after=not_after)


def _with_one_key(signers: Mapping[str, Signer], place: Place) -> Iterator[Problem]:
    """One key under two names would be one person who approves twice."""
    first: dict[str, str] = {}
    for name, signer in signers.items():
        if (other := first.setdefault(posixpath.normpath(signer.key), name)) != name:
            yield place.problem(f"its key is that of '{other}'", "a key is one signer's", name)


def _no_signers(
    names: Collection[str], signers: Mapping[str, Signer], place: Place
) -> Iterator[Problem]:
    for i, name in enumerate(names):
        if name not in signers:
            message = f"'{name}' is no signer of this environment"
            yield place.problem(message, did_you_mean(name, signers), i)


def _gate(name: str, raw: Mapping[str, Any]) -> Gate:
    made: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()
    }
    if "data" in made:
        made["data"] = tuple(map(Digest, made["data"]))
    if "least" in made:
        made["least"] = timedelta(**{_UNITS[made["least"][-1]]: int(made["least"][:-1])})
    for key in ("max_p99_ms", "max_median_ms", "max_slower_percent"):
        if key in made:
            made[key] = float(made[key])
    return GATES[name](**made)


def _cycles(document: Document, environments: Mapping[str, Environment]) -> Iterator[Problem]:
    """One problem for each circle, at the first of its environments."""
    told: set[str] = set()
    for name in environments:
        way = [name]
        while (source := _source_of(way[-1], environments)) is not None and source not in way:
            way.append(source)
        if source == name and not told & set(way):
            told |= set(way)
            circle = " from ".join(f"'{each}'" for each in [*way, name])
            message = f"{circle}: nothing ever gets in"
            yield document.problem((name, "from"), message, "the first environment has no 'from'")


def _source_of(name: str, environments: Mapping[str, Environment]) -> str | None:
    return environments[name].source if name in environments else None


def _in_one_store(document: Document, environments: Mapping[str, Environment]) -> Iterator[Problem]:
    first: dict[str, str] = {}
    for name, environment in environments.items():
        scheme, slashes, rest = environment.store.rpartition("://")
        host, slash, path = rest.partition("/")
        # A registry is a host, whose name has no case; folders are what they are called.
        where = f"{host.lower()}{slash}{path}" if scheme == "oci" else posixpath.normpath(rest)
        if (other := first.setdefault(f"{scheme}{slashes}{where}", name)) != name:
            message = f"'{other}' has the same store"
            yield document.problem((name, "store"), message, "give each environment its own")
