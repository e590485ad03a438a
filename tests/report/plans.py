"""Plans and measurements to report on, made by hand: no file is read, and nothing run."""

from __future__ import annotations

from typing import Any

from engineforge.digest import digest_value
from engineforge.plan.planner import NeverBuilt, Stale
from engineforge.project.plans import Plan, PlannedVariant
from engineforge.worker.outcome import Checked, Ranked

ENTRY = digest_value("entry")


def planned(*labels: str) -> Plan:
    """A plan of variants that are called so: `spec/variant@target`."""
    return Plan(variants=[_variant(label) for label in labels])


def _variant(label: str) -> PlannedVariant:
    spec, _, rest = label.partition("/")
    variant, _, target = rest.partition("@")
    return PlannedVariant(
        spec=spec,
        variant=variant,
        target=target,
        plan=digest_value(label),
        state=Stale(reasons=(NeverBuilt(),), stages=("onnx", "engine")),
    )


def checked(*failures: str, advice: tuple[str, ...] = (), **measures: object) -> Checked:
    """A check of one output, on 32 samples, that came to these measures."""
    outputs = {"logits": {"relative_error": 0.0123456, "sqnr_db": 38.17, **measures}}
    measured = {"samples": 32, "outputs": outputs}
    return Checked(entry=ENTRY, measured=measured, failures=failures, advice=advice)


def ranked(*layers: dict[str, Any]) -> Ranked:
    return Ranked(entry=ENTRY, measured={"samples": 32, "layers": layers})


def layer(name: str, error: float | str | None, **more: object) -> dict[str, Any]:
    """What the layer `name` costs."""
    costs = {"relative_error": error, "output_sqnr_db": 40.0, "sqnr_db": 30.0}
    return {"layer": name, "type": "Conv", **costs, **more}
