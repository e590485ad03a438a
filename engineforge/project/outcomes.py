"""What became of a plan that was carried out: an outcome for each of its variants, and what they
come to together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from engineforge.errors import EngineForgeError, HostUnfit, SpecError
from engineforge.worker.outcome import (
    Built,
    Checked,
    Failed,
    Outcome,
    Rebuilt,
    Reused,
    Skipped,
    Timed,
)

if TYPE_CHECKING:
    from engineforge.project.plans import Plan, PlannedVariant


@dataclass(frozen=True, kw_only=True, repr=False)
class Results:
    """Of a `plan`, as it was when it was carried out: `outcomes` in the order of its variants, and
    the `faults` that were found in the store on the way.

    Iterates over pairs of a variant and its outcome; `results['ocr/fp16@rtx-ada']` is one outcome.
    """

    plan: Plan
    outcomes: tuple[Outcome, ...]
    faults: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<Results: {len(self)} outcomes, {len(self.failures)} failed>"

    def __iter__(self) -> Iterator[tuple[PlannedVariant, Outcome]]:
        return iter(zip(self.plan.variants, self.outcomes, strict=True))

    def __len__(self) -> int:
        return len(self.outcomes)

    def __getitem__(self, label: str) -> Outcome:
        """KeyError for a label, `SPEC/VARIANT@TARGET`, that was not planned."""
        return self._by_label[label]

    @cached_property
    def _by_label(self) -> dict[str, Outcome]:
        return {variant.label: outcome for variant, outcome in self}

    @property
    def engines(self) -> dict[str, Path]:
        """The engine files that are there now, by label: built, or reused."""
        return {
            variant.label: outcome.path
            for variant, outcome in self
            if isinstance(outcome, Built | Reused)
        }

    @property
    def failures(self) -> dict[str, Outcome]:
        """What failed, or missed a threshold, by label."""
        return {variant.label: outcome for variant, outcome in self if failed(outcome)}

    @property
    def exit_code(self) -> int:
        """What the command line ends with: 0, or that of the error that `or_raise` raises."""
        return exit_code(self.plan, self.outcomes)

    def or_raise(self) -> Results:
        """The same, where nothing failed. SpecError for problems that were gone past;
        EngineForgeError where something failed; HostUnfit where this host can do none of it."""
        code = self.exit_code
        if code == SpecError.exit_code:
            raise SpecError(self.plan.problems)
        if code == HostUnfit.exit_code:
            why = dict.fromkeys(each.why for each in self.outcomes if isinstance(each, Skipped))
            raise HostUnfit("; ".join(why))
        if code:
            told = [f"{label}: {_why(each)}" for label, each in self.failures.items()]
            raise EngineForgeError("\n".join(told))
        return self


def exit_code(plan: Plan, outcomes: Iterable[Outcome]) -> int:
    """Of a plan that was carried out, by building or by measuring."""
    outcomes = tuple(outcomes)
    if plan.problems:
        return SpecError.exit_code
    if any(map(failed, outcomes)):
        return EngineForgeError.exit_code
    if outcomes and all(isinstance(each, Skipped) and each.unfit for each in outcomes):
        return HostUnfit.exit_code
    return 0


def failed(outcome: Outcome) -> bool:
    """Whether it failed, or misses a threshold."""
    match outcome:
        case Failed():
            return True
        case Checked(failures=failures) | Timed(failures=failures):
            return bool(failures)
        case Rebuilt(level=level):
            return level == "none"
        case _:
            return False


def _why(outcome: Outcome) -> str:
    match outcome:
        case Failed(stage=stage, error=error):
            return f"failed in stage '{stage}': {error}"
        case Checked(failures=failures) | Timed(failures=failures):
            return "; ".join(failures)
        case Rebuilt(said=said):
            return said
        case _:
            return type(outcome).__name__.lower()
