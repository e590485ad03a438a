"""EngineForge: a declarative build system for NVIDIA TensorRT engines.

    import engineforge as ef

    specs = ef.load_specs("specs")
    print(specs.plan().explain())
    results = specs.plan(variants=["fp16"]).build(keep_going=True)
    for label, engine in results.or_raise().engines.items(): ...

`load_specs` gives `Specs`, these a `Plan`, that `Results`. `Engine` runs an engine; `pull`,
`follow` and `fall_back` are for servers: engines of environments, verified. What can go wrong is an
`EngineForgeError`, or an `OSError` of the machine. The names in `__all__` stay, all else may move.
`__init__.pyi` beside this has their types.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__version__ = "0.1.0"

# Imported when it is used: whoever reads the version is not to wait for the rest.
_WHERE = {
    "cli.library": ("load_specs",),
    "cli.serving": ("fall_back", "follow", "pull"),
    "errors": (
        "EngineForgeError",
        "HostUnfit",
        "Problem",
        "PromotionRefused",
        "SpecError",
        "StoreCorrupt",
        "Untrusted",
        "UsageError",
    ),
    "project.outcomes": ("Results",),
    "project.plans": ("Plan", "PlannedVariant"),
    "project.specs": ("Specs",),
    "promotion.pulling": ("Pulled",),
    "runtime.engine": ("Engine",),
    "worker.outcome": (
        "Built",
        "Checked",
        "Event",
        "Failed",
        "Outcome",
        "Prepared",
        "Ranked",
        "Rebuilt",
        "Reused",
        "Skipped",
        "Timed",
    ),
}
_MODULES = {name: module for module, names in _WHERE.items() for name in names}
__all__ = ["__version__", *sorted(_MODULES)]  # noqa: PLE0604 - they are all text


def __getattr__(name: str) -> Any:  # noqa: ANN401 - of any of them
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
