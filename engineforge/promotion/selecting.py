"""Which engine of a spec runs on a host, by what its manifest says that it was built for, and why
the others cannot. Looks at no host and fetches nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from engineforge.backends.gpu import HostGpu
from engineforge.backends.host import AMPERE, GpuNeed, install, same_toolchain, why_not_one
from engineforge.errors import HostUnfit, UsageError
from engineforge.target import Gpu, Toolchain

How = Literal["gpu", "same_compute_capability", "ampere_plus", "compute_capabilities", "asked"]
"""By what an engine fits a host, the closest first; `asked`: its target was named, and no host was
looked at."""
_CLOSEST: tuple[How, ...] = (
    "gpu",
    "same_compute_capability",
    "ampere_plus",
    "compute_capabilities",
)

# By NVIDIA's support matrix of TensorRT 11.4.1: version compatible engines, which there are since
# 8.6, run on later releases of their major version, and of one other.
_COMPATIBLE_SINCE = (8, 6)
_NEXT_MAJOR = {8: 10, 10: 11}


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """`platform` in a target's words, `linux-x86_64`; `gpus` in CUDA's order; `toolchains` of all
    backends."""

    platform: str
    gpus: Sequence[HostGpu]
    toolchains: Sequence[Toolchain]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An engine to choose, and the recipe in its manifest (`EngineRecipe` as JSON)."""

    variant: str
    target: str
    recipe: Mapping[str, Any]

    @property
    def name(self) -> str:
        return f"{self.variant}@{self.target}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """`gpu` is the one of the host that it is for; `others` says by name why not the others."""

    candidate: Candidate
    how: How
    gpu: HostGpu | None
    others: Mapping[str, str]

    @property
    def words(self) -> str:
        """Why it is this one."""
        name = self.gpu.gpu.name if self.gpu is not None else ""
        return {
            "gpu": f"built for '{name}'",
            "same_compute_capability": f"built for the compute capability of '{name}'",
            "ampere_plus": f"built for Ampere and later, such as '{name}'",
            "compute_capabilities": f"built for several GPUs, '{name}' among them",
            "asked": "its target was asked for",
        }[self.how]


class _Unreadable(Exception):
    """A recipe that this version does not understand."""


@dataclass(frozen=True, slots=True)
class _Fit:
    candidate: Candidate
    how: How
    gpu: HostGpu
    rank: tuple[int, ...]


def select(
    candidates: Sequence[Candidate],
    host: Host | None,
    *,
    spec: str,
    variant: str | None = None,
    target: str | None = None,
) -> Chosen:
    """The engine of `spec` that a host runs: for its first GPU that any is for, the one that was
    built for just that kind, then one for its compute capability, then for Ampere and later, then
    for a list; and of equals the one for this very version and driver. A `target` chooses without
    a look at the host, which may be None then.

    HostUnfit with what each engine lacks where none runs; UsageError where several variants fit
    equally well, and for names of what is not there.
    """
    found = _named(candidates, spec, variant, target)
    if target is not None:
        _one_variant(spec, f"are for the target '{target}'", found)
        others = {each.name: "another was asked for" for each in candidates if each not in found}
        return Chosen(candidate=found[0], how="asked", gpu=None, others=others)
    if host is None:
        raise UsageError(
            f"neither a host nor a target says which engine of '{spec}' is meant",
            hint="choose with --target",
        )
    fits: list[_Fit] = []
    others = {each.name: "another variant was asked for" for each in candidates}
    for each in found:
        fit = _fit(each, host)
        if isinstance(fit, str):
            others[each.name] = fit
        else:
            fits.append(fit)
    if not fits:
        raise _unfit(spec, found, others)
    fits.sort(key=lambda fit: fit.rank)
    best = fits[0]
    equal = [fit.candidate for fit in fits if fit.rank == best.rank]
    _one_variant(spec, f"run equally well on '{best.gpu.gpu.name}'", equal)
    if len(equal) > 1:
        raise UsageError(
            f"{len(equal)} engines of '{spec}' run equally well on '{best.gpu.gpu.name}': "
            f"{_and(each.name for each in equal)}",
            hint="choose one with --target",
        )
    del others[best.candidate.name]
    others.update({fit.candidate.name: _less(fit, best) for fit in fits[1:]})
    return Chosen(candidate=best.candidate, how=best.how, gpu=best.gpu, others=others)


def _named(
    candidates: Sequence[Candidate], spec: str, variant: str | None, target: str | None
) -> list[Candidate]:
    if not candidates:
        raise HostUnfit(f"'{spec}' has no engine", hint="promote one")
    for kind, asked in (("variant", variant), ("target", target)):
        there = sorted({getattr(each, kind) for each in candidates})
        if asked is not None and asked not in there:
            raise UsageError(
                f"'{spec}' has no {kind} '{asked}'", hint=f"its {kind}s are {_and(there)}"
            )
    found = [
        each
        for each in candidates
        if variant in (None, each.variant) and target in (None, each.target)
    ]
    if not found:
        names = _and(sorted(each.name for each in candidates))
        raise UsageError(
            f"'{spec}' has no engine of variant '{variant}' for the target '{target}'",
            hint=f"it has {names}",
        )
    return found


def _one_variant(spec: str, which: str, found: Sequence[Candidate]) -> None:
    variants = sorted({each.variant for each in found})
    if len(variants) > 1:
        raise UsageError(
            f"{len(variants)} variants of '{spec}' {which}: {_and(variants)}",
            hint="choose one with --variant",
        )


def _unfit(spec: str, found: Sequence[Candidate], why: Mapping[str, str]) -> HostUnfit:
    """One line for each target, and only one for variants that lack the same."""
    lines: dict[tuple[str, str], list[str]] = {}
    for each in found:
        lines.setdefault((each.target, why[each.name]), []).append(each.variant)
    said = "".join(
        f"\n  {target} ({', '.join(variants)}): {lacking}"
        for (target, lacking), variants in lines.items()
    )
    return HostUnfit(
        f"no engine of '{spec}' runs on this host; there are those for{said}",
        hint="`engineforge target detect` prints a target for this host, to build it for; "
        "--target fetches one for another",
    )


def _fit(candidate: Candidate, host: Host) -> _Fit | str:
    """How it fits, or all that is missing, in words."""
    try:
        chain, platform, how, need = _needs(candidate.recipe)
    except _Unreadable as error:
        return str(error)
    builder = candidate.recipe["builder"]
    why = []
    if platform != host.platform:
        why.append(f"it is for {platform}, and this host is {host.platform}")
    exactly, lacking = _toolchain(chain, builder, host.toolchains)
    if lacking is not None:
        why.append(lacking)
    will_do = [at for at, gpu in enumerate(host.gpus) if not need.lacking(gpu)]
    if not will_do:
        why.append(need.why_not("it", host.gpus))
    if why:
        return "; ".join(why)
    at = will_do[0]
    rank = (at, _CLOSEST.index(how), not exactly, need.driver is None, len(need.capabilities))
    return _Fit(candidate, how, host.gpus[at], rank)


def _needs(recipe: Mapping[str, Any]) -> tuple[Toolchain, str, How, GpuNeed]:
    """The toolchain, the platform, and the GPUs; `plan/keys.py` wrote them into the recipe."""
    try:
        raw, target, builder = recipe["toolchain"], recipe["target"], recipe["builder"]
        chain = Toolchain(backend=raw["backend"], version=raw["version"], cuda=raw["cuda"])
        platform = target["platform"]
        if builder.get("runtime_platform", "same_as_build") != "same_as_build":
            platform = str(builder["runtime_platform"]).replace("_amd64", "-x86_64")
        how, which = _gpus(target, builder.get("hardware_compatibility", "none"))
        unknown = target.keys() - {"platform", "gpu", "compute_capabilities", "driver"}
        if unknown:
            raise ValueError(f"unknown: {_and(sorted(unknown))}")
        need = GpuNeed(cuda=chain.cuda, driver=target.get("driver"), **which)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        message = f"what it needs is not said in a way that this version knows ({error!r})"
        raise _Unreadable(message) from error
    return chain, platform, how, need


def _gpus(target: Mapping[str, Any], level: object) -> tuple[How, dict[str, Any]]:
    gpu, several = target.get("gpu"), target.get("compute_capabilities")
    if several:
        words = f"GPUs of compute capability {' or '.join(several)}"
        return "compute_capabilities", {"words": words, "capabilities": tuple(several)}
    if level == "ampere_plus" and gpu is None:
        words = f"GPUs of compute capability {AMPERE} or higher"
        return "ampere_plus", {"words": words, "least": AMPERE}
    if level == "same_compute_capability":
        one = gpu["compute_capability"]  # type: ignore[index]  # a TypeError is told
        words = f"GPUs of compute capability {one}"
        return "same_compute_capability", {"words": words, "capabilities": (one,)}
    if level != "none":
        raise ValueError(f"hardware_compatibility: {level!r}")
    exactly = Gpu(**gpu)  # type: ignore[arg-type]  # the same
    return "gpu", {"words": f"'{exactly.name}'", "gpu": exactly}


def _toolchain(
    wanted: Toolchain, builder: Mapping[str, Any], installed: Sequence[Toolchain]
) -> tuple[bool, str | None]:
    """Whether it is this very one, and what is missing."""
    found = [each for each in installed if each.backend == wanted.backend]
    if (why := why_not_one(wanted, found)) is not None:
        return False, why
    (here,) = found
    if same_toolchain(here, wanted):
        return True, None
    # Without the runtime that such an engine brings along, one of its version has to be here.
    compatible = builder.get("version_compatible") and not builder.get("exclude_lean_runtime")
    if compatible and _later(wanted.version, here.version):
        return False, None
    later = ", or a later one that is compatible with it" if compatible else ""
    return False, f"it needs {wanted}{later}, and this host has {here}: {install(wanted)}"


def _later(built: str, here: str) -> bool:
    """Whether a release of classic TensorRT runs version compatible engines of an earlier one."""
    one, other = (tuple(int(part) for part in each.split(".")) for each in (built, here))
    if one < _COMPATIBLE_SINCE or other < one:
        return False
    return other[0] in (one[0], _NEXT_MAJOR.get(one[0]))


def _less(fit: _Fit, best: _Fit) -> str:
    if fit.gpu is not best.gpu:
        return f"it would run on '{fit.gpu.gpu.name}' ({fit.gpu.uuid})"
    return f"it would run here too, and {best.candidate.name} fits closer"


def _and(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
