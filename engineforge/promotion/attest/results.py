"""What is said of engines besides how they were built: results of tests, approvals, and that a
promotion verified them. What a reader does not understand, it refuses (Untrusted).

Predicates: https://in-toto.io/attestation/test-result/v0.1 and
https://slsa.dev/verification_summary/v1; an approval is EngineForge's own. Measurements are in the
annotations of a test's configuration, where the test-result predicate has room for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from engineforge.digest import Digest
from engineforge.errors import Untrusted
from engineforge.promotion.attest.statement import Statement, predicate_of
from engineforge.promotion.attest.strict import Fields, time_text

TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
APPROVAL = "https://engineforge.dev/approval/v1"
SUMMARY = "https://slsa.dev/verification_summary/v1"

_ACCURACY = "https://engineforge.dev/test/accuracy/v1"
_LATENCY = "https://engineforge.dev/test/latency/v1"
_LOAD = "https://engineforge.dev/test/load/v1"
_SLSA_VERSION = "1.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class OnGpu:
    """Where something ran: the facts of the GPU (target.Gpu), and its driver."""

    gpu: Mapping[str, Any]
    driver: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """How far the converted `model`, or the `engine` itself, is from its source, and whether that
    was near enough.

    `data` is over the digests of the data set's files in their order (plan.keys.SamplesRecipe), of
    which so many `samples` were taken (None: all); `source` and `model` are the models that were
    compared, each with its external data, `model` empty where it was the engine. `measured` is by
    output and measure, as checks/metrics.py has them. `failures` are why it did not pass.
    """

    of: Literal["model", "engine"]
    time: datetime
    data: Digest
    samples: int | None
    source: tuple[Digest, ...]
    model: tuple[Digest, ...] = ()
    measured: Mapping[str, Mapping[str, float | str | None]]
    thresholds: Mapping[str, float]
    failures: tuple[str, ...] = ()
    on: OnGpu | None = None

    @property
    def passed(self) -> bool:
        return not self.failures

    def to_predicate(self) -> dict[str, Any]:
        about = {
            "time": time_text(self.time),
            "of": self.of,
            "samples": self.samples,
            "measured": self.measured,
            "thresholds": self.thresholds,
            "failures": [*self.failures],
        }
        files = [("data", self.data)]
        files += [("source", each) for each in self.source]
        files += [("model", each) for each in self.model]
        return _test(_ACCURACY, about, passed=self.passed, on=self.on, files=files)


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """How fast it is, in milliseconds per inference: at which `point` (profile and shapes), by
    which `settings` (as plan.keys.LatencyKey has both)."""

    time: datetime
    median_ms: float
    p99_ms: float
    point: Mapping[str, Any]
    settings: Mapping[str, Any]
    on: OnGpu

    @property
    def passed(self) -> bool:
        """It was measured; whether it is fast enough is the gate's question."""
        return True

    def to_predicate(self) -> dict[str, Any]:
        about = {
            "time": time_text(self.time),
            "median_ms": self.median_ms,
            "p99_ms": self.p99_ms,
            "point": self.point,
            "settings": self.settings,
        }
        return _test(_LATENCY, about, passed=True, on=self.on)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadTest:
    """Whether a fresh process loaded and ran it; `why` not."""

    time: datetime
    passed: bool
    why: str = ""
    on: OnGpu

    def to_predicate(self) -> dict[str, Any]:
        about = {"time": time_text(self.time), "why": self.why}
        return _test(_LOAD, about, passed=self.passed, on=self.on)


Result = Accuracy | Latency | LoadTest


def read_result(statement: Statement) -> Result:
    """The result of a test of ours; Untrusted for others, and for one that contradicts itself."""
    fields = predicate_of(statement, TEST_RESULT)
    passed = fields.one_of("result", "PASSED", "FAILED") == "PASSED"
    named = {
        word: fields.texts(word) for word in ("passedTests", "failedTests") if fields.has(word)
    }
    test, *rest = fields.each("configuration") or [Fields({}, "the predicate.configuration")]
    fields.done()
    uri, about = test.text("uri"), test.fields("annotations")
    test.done()
    files: dict[str, list[Digest]] = {}
    for each in rest:
        files.setdefault(each.text("name"), []).append(each.sha256())
        each.done()
    found = _read_test(uri, about, files, passed)
    about.done()
    if files or found.passed != passed or named != _named(uri, passed):
        raise Untrusted("the predicate: a test result that contradicts itself")
    return found


def _read_test(uri: str, about: Fields, files: dict[str, list[Digest]], passed: bool) -> Result:
    if uri not in (_ACCURACY, _LATENCY, _LOAD):
        raise Untrusted(f"the predicate is of a test that this version does not know: '{uri}'")
    time, on = about.time("time"), None
    if about.has("gpu") or about.has("driver"):
        on = OnGpu(gpu=about.mapping("gpu"), driver=about.text("driver"))
    if uri == _ACCURACY:
        of: Literal["model", "engine"] = (
            "engine" if about.one_of("of", "model", "engine") == "engine" else "model"
        )
        data, source = files.pop("data", []), files.pop("source", [])
        if len(data) != 1 or not source or (on is None) != (of == "model"):
            raise Untrusted("the predicate: an accuracy check without its data, source or GPU")
        return Accuracy(
            of=of,
            time=time,
            data=data[0],
            samples=_whole_or_none(about, "samples"),
            source=tuple(source),
            model=tuple(files.pop("model", [])),
            measured=_measured(about.mapping("measured")),
            thresholds=_numbers(about.mapping("thresholds")),
            failures=about.texts("failures"),
            on=on,
        )
    if on is None:
        raise Untrusted("the predicate: it is not told on which GPU that was")
    if uri == _LATENCY:
        return Latency(
            time=time,
            median_ms=_positive(about, "median_ms"),
            p99_ms=_positive(about, "p99_ms"),
            point=about.mapping("point"),
            settings=about.mapping("settings"),
            on=on,
        )
    return LoadTest(time=time, passed=passed, why=about.text("why"), on=on)


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """That somebody wants just this engine in just this environment. Whose word it is, the
    signature says; `by` is what they call themselves."""

    environment: str
    spec: str
    variant: str
    target: str
    by: str
    time: datetime
    reason: str = ""

    def to_predicate(self) -> dict[str, Any]:
        names = {name: getattr(self, name) for name in _APPROVAL}
        return {**names, "time": time_text(self.time)}


_APPROVAL = ("environment", "spec", "variant", "target", "by", "reason")


def read_approval(statement: Statement) -> Approval:
    fields = predicate_of(statement, APPROVAL)
    names = {name: fields.text(name) for name in _APPROVAL}
    found = Approval(**names, time=fields.time("time"))
    fields.done()
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """That a promotion held an engine to a policy: `resource` is where it went, `policy` the digest
    of the gates as they were, `inputs` the attestations by which it was judged. Written for the
    tools of others; nothing here reads one."""

    verifier: str
    time: datetime
    resource: str
    policy_uri: str
    policy: Digest
    inputs: tuple[Digest, ...] = ()
    passed: bool
    levels: tuple[str, ...] = ()

    def to_predicate(self) -> dict[str, Any]:
        return {
            "verifier": {"id": self.verifier},
            "timeVerified": time_text(self.time),
            "resourceUri": self.resource,
            "policy": {"uri": self.policy_uri, "digest": {"sha256": self.policy.hex}},
            "inputAttestations": [{"digest": {"sha256": each.hex}} for each in self.inputs],
            "verificationResult": "PASSED" if self.passed else "FAILED",
            "verifiedLevels": [*self.levels],
            "slsaVersion": _SLSA_VERSION,
        }


def _test(
    uri: str,
    about: Mapping[str, Any],
    *,
    passed: bool,
    on: OnGpu | None,
    files: Iterable[tuple[str, Digest]] = (),
) -> dict[str, Any]:
    where = {} if on is None else {"gpu": on.gpu, "driver": on.driver}
    return {
        "result": "PASSED" if passed else "FAILED",
        "configuration": [
            {"uri": uri, "annotations": {**about, **where}},
            *({"name": name, "digest": {"sha256": digest.hex}} for name, digest in files),
        ],
        **{word: [*names] for word, names in _named(uri, passed).items()},
    }


def _named(uri: str, passed: bool) -> dict[str, tuple[str, ...]]:
    return {"passedTests" if passed else "failedTests": (uri,)}


def _whole_or_none(fields: Fields, name: str) -> int | None:
    return None if fields.null(name) else fields.whole(name)


def _positive(fields: Fields, name: str) -> float:
    value = fields.number(name)
    if value <= 0:
        raise Untrusted(f"the predicate: '{name}' is {value:g}, which no engine takes")
    return value


def _measured(raw: Mapping[str, Any]) -> dict[str, dict[str, float | str | None]]:
    """Figures (checks/figures.py) by output and measure."""
    found: dict[str, dict[str, float | str | None]] = {}
    for output, measures in raw.items():
        if not isinstance(measures, Mapping):
            raise Untrusted(f"the predicate: what was measured of '{output}' is no object")
        for name, value in measures.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (number or value in (None, "inf", "-inf")):
                raise Untrusted(f"the predicate: '{name}' of '{output}' is no figure: {value!r}")
            found.setdefault(output, {})[name] = value
        found.setdefault(output, {})
    return found


def _numbers(raw: Mapping[str, Any]) -> dict[str, float]:
    fields = Fields(raw, "the predicate.thresholds")
    return {name: fields.number(name) for name in raw}
