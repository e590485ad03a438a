"""Whether an engine may pass into an environment: pure decisions on evidence that was verified
elsewhere. What is missing refuses, and each refusal names the command that would supply it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import TypeVar

from engineforge.errors import UsageError
from engineforge.promotion.candidate import (
    Candidate,
    Evidence,
    Fresh,
    InSource,
    Latency,
    NotInSource,
    Replaced,
    Signed,
    Stale,
    Unknown,
)
from engineforge.promotion.measurements import (
    R,
    decisive,
    has_failed,
    kind,
    missed,
    ms,
    slower,
    unlike,
    words,
)
from engineforge.spec.environments import (
    AccuracyGate,
    AgeGate,
    ApprovalGate,
    Environment,
    FreshnessGate,
    Gate,
    LatencyGate,
    LoadGate,
    ProvenanceGate,
)
from engineforge.spec.validate import did_you_mean

S = TypeVar("S", bound=Signed)

# How far the clocks of those who sign may be ahead of that of whoever asks.
_CLOCKS_DIFFER = timedelta(minutes=5)

SOURCE, NO_GATES = "source", "gates"
"""What the results are called that no gate of `environments.yaml` stands for: whether it comes from
the source environment, and that an environment without gates lets nothing in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """What a gate says of a candidate. One that was not passed lets it in if it is `overridden`."""

    gate: str
    passed: bool
    why: str
    hint: str | None = None
    overridden: bool = False

    @property
    def lets_in(self) -> bool:
        return self.passed or self.overridden


def evaluate(
    environment: Environment,
    candidate: Candidate,
    evidence: Evidence,
    replaced: Replaced | None,
    now: datetime,
    *,
    overridden: Collection[str] = (),
) -> list[GateResult]:
    """What every gate says, in the order they are asked in; none is left out after a refusal.

    `replaced` is None where the environment has no such variant for the target. `overridden` are
    gates that may refuse and not keep it out; UsageError for a name that is no gate here.
    """
    asked = _Asked(environment, candidate, evidence, replaced, now)
    names = [*([SOURCE] if environment.source is not None else []), *environment.gates]
    for name in overridden:
        if name not in names:
            message = f"'{environment.name}' has no gate '{name}' to override"
            raise UsageError(message, hint=did_you_mean(name, names))
    results = [] if environment.source is None else [asked.comes_from(environment.source)]
    results += [asked.gate(name, gate) for name, gate in environment.gates.items()]
    results = [
        replace(each, overridden=True) if not each.passed and each.gate in overridden else each
        for each in results
    ]
    if not environment.gates:
        why = f"'{environment.name}' has no gates: nothing gets in"
        hint = f"write under '{environment.name}': gates: {{freshness: {{}}, provenance: {{}}}}"
        results.append(GateResult(gate=NO_GATES, passed=False, why=why, hint=hint))
    return results


@dataclass(frozen=True, slots=True)
class _Said:
    """What a gate says; a hint makes no sense where it passes."""

    passed: bool
    why: str
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class _Asked:
    """One candidate, before all gates of one environment."""

    environment: Environment
    candidate: Candidate
    evidence: Evidence
    replaced: Replaced | None
    now: datetime

    def gate(self, name: str, gate: Gate) -> GateResult:
        match gate:
            case ProvenanceGate():
                said = self._provenance(gate)
            case FreshnessGate():
                said = self._freshness()
            case AccuracyGate():
                said = self._accuracy(gate)
            case LatencyGate():
                said = self._latency(gate)
            case LoadGate():
                said = self._load_test(gate)
            case AgeGate():
                said = self._age(gate)
            case ApprovalGate():
                said = self._approval(gate)
        return GateResult(gate=name, passed=said.passed, why=said.why, hint=said.hint)

    def comes_from(self, source: str) -> GateResult:
        found = self.evidence.source
        if isinstance(found, InSource) and found.environment == source:
            why = f"'{source}' has it since {at(found.since)}"
            return GateResult(gate=SOURCE, passed=True, why=why)
        why = found.why if isinstance(found, NotInSource) else f"'{found.environment}' has it"
        return GateResult(
            gate=SOURCE,
            passed=False,
            why=f"it is not in '{source}', where its engines come from: {why}",
            hint=f"`{self._promote(source)}`",
        )

    def _provenance(self, gate: ProvenanceGate) -> _Said:
        found, others = self._counted(self.evidence.provenance, gate.signed_by)
        if found:
            return _Said(True, f"{_by(found[0])} says how it was built")
        why = f"nobody who counts says how it was built{_but(others)}"
        # Only who takes an engine from their own cache knows how it was built there.
        first = self.environment.source or self.environment.name
        signed = f"`{self._promote(first)}` with the key of {self._signers(gate.signed_by)}"
        return _Said(False, why, f"it is signed when it comes out of the cache: {signed}")

    def _freshness(self) -> _Said:
        match self.evidence.freshness:
            case Fresh():
                return _Said(True, "it is what the specs ask for")
            case Stale(why):
                hint = f"`engineforge build {self._file}`"
                return _Said(False, f"the specs ask for another engine: {why}", hint)
            case Unknown(why):
                hint = f"`engineforge plan {self._file}`"
                return _Said(False, f"it is not known what the specs ask for: {why}", hint)

    def _accuracy(self, gate: AccuracyGate) -> _Said:
        what = "the converted model" if gate.of == "model" else "the engine itself"
        of = [each for each in self.evidence.accuracy if each.of == gate.of]
        right = [each for each in of if not gate.data or each.data in gate.data]
        others = [
            f"data {each.data.short} is none of the gate's" for each in of if each not in right
        ]
        if gate.of == "engine":
            right, elsewhere = self._on_target(right)
            others += elsewhere
        found, unsigned = self._counted(right, gate.signed_by)
        if not found:
            option = "--accuracy" if gate.of == "model" else "--engine"
            on = " on data " + _or([each.short for each in gate.data]) if gate.data else ""
            why = f"no accuracy check of {what}{on} counts{_but([*others, *unsigned])}"
            return _Said(
                False, why, self._checked(option, gate.signed_by, gpu=option == "--engine")
            )
        newest = decisive(found)
        failed = [
            f"the accuracy of {what} is too low on data {each.data.short}"
            f"{words(each.failures)} ({_signed(each)})"
            for each in newest
            if has_failed(each)
        ]
        if failed:
            return _Said(False, "; ".join(failed))
        about = "; ".join(f"data {each.data.short}, {_signed(each)}" for each in newest)
        return _Said(True, f"the accuracy of {what} is enough ({about})")

    def _latency(self, gate: LatencyGate) -> _Said:
        right, others = self._on_target(self.evidence.latency)
        found, unsigned = self._counted(right, gate.signed_by)
        again = self._checked("--latency", gate.signed_by, gpu=True)
        if not found:
            why = f"no measurement of its latency counts{_but([*others, *unsigned])}"
            return _Said(False, why, again)
        newest, failed = decisive(found), []
        for each in newest:
            if limits := list(missed(each, gate)):
                failed.append(f"{'; '.join(limits)} (on '{each.gpu.name}', {_signed(each)})")
        if failed:
            return _Said(False, "; ".join(failed))
        told = "; ".join(
            f"p99 {ms(each.p99_ms)}, median {ms(each.median_ms)} (on '{each.gpu.name}', "
            f"{_signed(each)})"
            for each in newest
        )
        if gate.max_slower_percent is None:
            return _Said(True, told)
        if self.replaced is None:
            return _Said(True, f"{told}; it replaces no engine")
        if self.replaced.engine == self.candidate.engine:
            return _Said(True, f"{told}; it replaces itself")
        return self._against(self.replaced, newest, gate.max_slower_percent, gate.signed_by, told)

    def _against(
        self,
        replaced: Replaced,
        newest: Sequence[Latency],
        limit: float,
        signed_by: tuple[str, ...],
        told: str,
    ) -> _Said:
        """The relative part of the latency gate."""
        before, _ = self._counted(replaced.latency, signed_by)
        for mine in newest:
            there = [each for each in before if kind(each.gpu) == kind(mine.gpu)]
            alike = [each for each in there if not list(unlike(each, mine))]
            which = f"the engine that it replaces ({replaced.engine.short})"
            if not alike:
                how = f", but with {' and '.join(unlike(there[0], mine))}" if there else ""
                where = f"on '{mine.gpu.name}' with driver {mine.driver}"
                why = f"{which} was never measured {where} as it was{how}"
                again = self._checked("--latency", signed_by, gpu=True)
                return _Said(False, why, f"with the specs that it was built from, {again}")
            percent = slower(mine, alike[0])
            medians = f"{ms(mine.median_ms)}, and {ms(alike[0].median_ms)}"
            if percent is None:
                return _Said(
                    False, f"its median cannot be compared with that of {which}: {medians}"
                )
            if not percent <= limit:
                return _Said(
                    False,
                    f"median is {percent:.1f} % over that of {which} ({medians}, on "
                    f"'{mine.gpu.name}'), expected at most {limit:.6g} %",
                )
            told += f"; median {percent:+.1f} % against {which}, at most {limit:+.6g} %"
        return _Said(True, told)

    def _load_test(self, gate: LoadGate) -> _Said:
        right, others = self._on_target(self.evidence.load_tests)
        found, unsigned = self._counted(right, gate.signed_by)
        if not found:
            why = f"nobody who counts says that it loads and runs{_but([*others, *unsigned])}"
            # It runs the engine in a fresh process.
            again = self._checked("--latency", gate.signed_by, gpu=True)
            return _Said(False, why, f"with `checks: latency:` in its spec, {again}")
        newest = decisive(found)
        failed = [each for each in newest if has_failed(each)]
        if failed:
            told = (f"on '{x.gpu.name}'{words([x.why])} ({_signed(x)})" for x in failed)
            return _Said(False, f"it does not load and run {'; '.join(told)}")
        told = (f"on '{each.gpu.name}' ({_signed(each)})" for each in newest)
        return _Said(True, f"it loads and runs {'; '.join(told)}")

    def _age(self, gate: AgeGate) -> _Said:
        found = self.evidence.source
        if self.environment.source is None:
            why = f"'{self.environment.name}' takes engines from no environment, so it has no age"
            return _Said(False, why, "write from: ENVIRONMENT, or take the gate out")
        if not isinstance(found, InSource) or found.environment != self.environment.source:
            why = f"it is not in '{self.environment.source}', so it has no age there"
            return _Said(False, why, f"`{self._promote(self.environment.source)}`")
        here = f"it has been in '{found.environment}' since {at(found.since)}"
        passes = found.since + gate.least
        if self.now >= passes:
            return _Said(True, f"{here}, at least {span(gate.least)}")
        why = f"{here}, expected at least {span(gate.least)}"
        return _Said(False, why, f"it passes from {at(passes)} on")

    def _approval(self, gate: ApprovalGate) -> _Said:
        mine, others = [], []
        for each in self.evidence.approvals:
            if (each.environment, each.spec) == (self.environment.name, self.candidate.spec):
                mine.append(each)
            else:
                others.append(f"{_by(each)} approved of it as '{each.environment}/{each.spec}'")
        found, unsigned = self._counted(mine, gate.by)
        people = sorted({name for each in found for name in each.signers})
        told = _and(people)
        if people and len(people) >= gate.count:
            return _Said(True, f"{told} approved")
        left = tuple(name for name in gate.by if name not in people)
        missing = f"expected {gate.count} of {_and(gate.by, ', ')} to approve"
        why = f"{missing}, found {told or 'none'}{_but([*others, *unsigned])}"
        approve = f"`engineforge attest approve {self._file} --to {self.environment.name}"
        return _Said(False, why, f"{approve} --key KEY`, with the key of {_or(left)}")

    @property
    def _file(self) -> str:
        return self.candidate.file

    def _checked(self, option: str, signed_by: tuple[str, ...], *, gpu: bool) -> str:
        """A hint: the command that finds something out, and the one that signs it. To what is in
        no environment yet nothing can be attached: it is signed as it is promoted."""
        where = f" on a GPU of target '{self.candidate.target}'" if gpu else ""
        here = self.environment
        sign = f"engineforge attest results {self._file} --to {here.name} --key KEY"
        if here.source is None:
            sign = self._promote(here.name)
        check = f"engineforge check {self._file} {option}"
        return f"`{check}`{where}, then `{sign}` with the key of {self._signers(signed_by)}"

    def _promote(self, to: str) -> str:
        return f"engineforge promote {self._file} --to {to} --key KEY"

    def _signers(self, signed_by: tuple[str, ...]) -> str:
        return _or(signed_by or tuple(self.environment.signers))

    def _counted(
        self, statements: Iterable[S], names: tuple[str, ...]
    ) -> tuple[list[S], list[str]]:
        """The statements that one of `names` (or any signer) signed while that counted, with these
        signers alone, newest first; and why the other signatures do not count."""
        counted, others = [], []
        for each in sorted(statements, key=lambda each: each.time, reverse=True):
            good = []
            for name in each.signers:
                if (why := self._not_counted(name, each.time, names)) is None:
                    good.append(name)
                else:
                    others.append(why)
            if good:
                counted.append(replace(each, signers=tuple(good)))
        return counted, others

    def _not_counted(self, name: str, time: datetime, names: tuple[str, ...]) -> str | None:
        signer = self.environment.signers.get(name)
        if signer is None:
            return f"'{name}' is no signer of '{self.environment.name}'"
        if names and name not in names:
            return f"'{name}' is not {_or(names)}"
        if time > self.now + _CLOCKS_DIFFER:
            return f"'{name}' signed at {at(time)}, which is yet to come"
        if not signer.counts_at(time):
            return f"'{name}' signed at {at(time)}, after {signer.not_after}"
        return None

    def _on_target(self, results: Iterable[R]) -> tuple[list[R], list[str]]:
        """The results of a GPU of the candidate's target, and why the others are not."""
        right, others = [], []
        for each in results:
            why = self.candidate.why_not_on(each.gpu, each.driver)
            if why is None:
                right.append(each)
            else:
                others.append(why)
        return right, others


def at(time: datetime) -> str:
    """A time, for people."""
    return f"{time.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S} UTC"


def span(time: timedelta) -> str:
    """A duration, for people: `1d 12h`."""
    left, parts = int(time.total_seconds()), []
    for unit, seconds in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, seconds)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts) or "0s"


def _and(names: Sequence[str], between: str = " and ") -> str:
    return between.join(f"'{name}'" for name in names)


def _or(names: Sequence[str]) -> str:
    return _and(names, " or ")


def _by(statement: Signed) -> str:
    return _and(statement.signers)


def _signed(statement: Signed) -> str:
    return f"{_by(statement)}, {at(statement.time)}"


def _but(reasons: Iterable[str]) -> str:
    said = "; ".join(dict.fromkeys(reasons))
    return f": {said}" if said else ""
