"""Accuracy checks, what layers cost, and calibration as text. Pure: prints nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from engineforge.project.plans import Plan
from engineforge.report import latency
from engineforge.report.text import counted
from engineforge.worker.outcome import Checked, Failed, Outcome, Ranked, Skipped, Timed


def verdict(checked: Checked | None, *, data: bool) -> str:
    """Of one variant in a word or two: whether its accuracy is what its spec asks.

    `checked` is what its last check came to; `data` is whether there is data to run one on.
    """
    if not data:
        return "accuracy cannot be told: the data of its check is missing or bad"
    if checked is None:
        return "accuracy not run: engineforge check --accuracy"
    if not checked.failures:
        return f"passed: accuracy ({_summary(checked.measured)})"
    return f"FAILED: accuracy: {'; '.join(checked.failures)}"


def check_lines(plan: Plan, outcomes: Sequence[Outcome], kind: str = "") -> Iterator[str]:
    """A line for each variant; `kind` is what the check is called, where there are others."""
    width = max((len(each.label) for each in plan.variants), default=0)
    for variant, outcome in zip(plan.variants, outcomes, strict=True):
        at = f"{variant.label:{width}}  {kind}" + ("  " if kind else "")
        match outcome:
            case Checked(failures=failures, measured=measured):
                yield f"{'FAILED' if failures else 'passed'}   {at}{_summary(measured)}"
            case Timed(failures=failures):
                yield f"{'FAILED' if failures else 'passed'}   {at}{latency.summary(outcome)}"
            case Failed(stage=stage):
                yield f"FAILED   {at}in stage {stage}"
            case Skipped(why=why):
                yield f"skipped  {at}{why}"


def failure_lines(plan: Plan, outcomes: Sequence[Outcome], kind: str = "") -> Iterator[str]:
    """Why checks failed, and what would mend it; once for variants that fail in the same way."""
    said: dict[tuple[str, ...], list[str]] = {}
    for variant, outcome in zip(plan.variants, outcomes, strict=True):
        match outcome:
            case Checked(failures=failures, advice=advice) if failures:
                lines = (*failures, *advice)
            case Timed(failures=failures) if failures:
                lines = failures
            case Failed(stage=stage, error=error, log=log):
                lines = (f"failed in stage {stage}: {error}", *(f"| {line}" for line in log))
            case _:
                continue
        said.setdefault(lines, []).append(variant.label)
    for lines, labels in said.items():
        yield f"{', '.join(labels)}{f', {kind.strip()}' if kind else ''}:"
        yield from (f"  {each}" for line in lines for each in line.splitlines())


def _summary(measured: Mapping[str, Any]) -> str:
    """What people look at first, of each output."""
    outputs: Mapping[str, Mapping[str, Any]] = measured["outputs"]
    parts = []
    for name, found in outputs.items():
        words = []
        if "top1" in found:
            source = _percent(found["source_top1"])
            words.append(f"top-1 {_percent(found['top1'])} (source {source})")
        if "top1_agreement" in found:
            words.append(f"agrees {_percent(found['top1_agreement'])}")
        if "agreement" in found:
            words.append(f"equal {_percent(found['agreement'])}")
        if "relative_error" in found:
            words.append(f"relative error {_short(found['relative_error'])}")
            words.append(f"SQNR {_short(found['sqnr_db'])} dB")
        parts.append((f"'{name}' " if len(outputs) > 1 else "") + ", ".join(words))
    return "; ".join(parts) + f"; {counted(measured['samples'], 'sample')}"


def _percent(share: object) -> str:
    return f"{100 * share:.2f} %" if isinstance(share, int | float) else "unknown"


def _short(number: object) -> str:
    if number is None:
        return "unknown"
    return f"{number:.3g}" if isinstance(number, int | float) else str(number)


def sensitivity_lines(plan: Plan, outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Per variant a table of its layers, the one that costs most first."""
    for variant, outcome in zip(plan.variants, outcomes, strict=True):
        match outcome:
            case Ranked(measured=measured):
                yield f"{variant.label}: what each layer costs alone, {_over(measured)}"
                yield from _table(measured["layers"])
            case Failed(stage=stage):
                yield f"{variant.label}: failed in stage {stage}"
            case Skipped(why=why):
                yield f"{variant.label}: skipped: {why}"


def _over(measured: Mapping[str, Any]) -> str:
    return f"over {counted(measured['samples'], 'sample')}"


def _table(layers: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    head = ("layer", "type", "relative error", "output SQNR dB", "own SQNR dB", "agrees")
    rows = [
        (
            each["layer"],
            each["type"],
            *(_short(each.get(k)) for k in ("relative_error", "output_sqnr_db", "sqnr_db")),
            _percent(each["top1_agreement"]) if "top1_agreement" in each else "",
        )
        for each in layers
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        cells = [
            f"{cell:{'<' if at < 2 else '>'}{width}}"  # noqa: PLR2004 - two columns of text
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  " + "  ".join(cells).rstrip()


def calibration_lines(path: str, found: Mapping[str, Any]) -> Iterator[str]:
    """The ranges that a model is quantized by, a line for each tensor."""
    yield path
    for name in ("method", "percentile", "samples", "seed"):
        if found.get(name) is not None:
            yield f"  {name:10} {found[name]}"
    for name, version in found.get("versions", {}).items():
        yield f"  {'with':10} {name} {version}"
    for kind in ("activations", "weights"):
        for name, each in found.get(kind, {}).items():
            values = ", ".join(f"{key} {_short(value)}" for key, value in each.items())
            yield f"  {kind[:-1]:10} {name}  {values}"
