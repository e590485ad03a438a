"""Which engine runs on which host, by recipes that the planner's own functions make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from engineforge.backends.options import resolve
from engineforge.digest import document
from engineforge.errors import HostUnfit, UsageError
from engineforge.plan.keys import recipe
from engineforge.promotion.selecting import Candidate, Host, select
from engineforge.spec.model import Precision, Variant
from engineforge.target import Gpu, Target, Toolchain
from tests.gpus import H200, L4, host_gpu

CLASSIC = Toolchain(backend="tensorrt", version="10.13.3.9", cuda="12.9")
RTX = Toolchain(backend="tensorrt_rtx", version="1.7.1.116", cuda="12")
HERE = (Toolchain(backend="tensorrt", version="10.13.3.9", cuda="12"), RTX)
H100 = replace(H200, name="NVIDIA H100 80GB HBM3", memory=85_000_000_000)
T4 = replace(H200, name="Tesla T4", compute_capability="7.5", sm_count=40)


def host(*kinds: Gpu, toolchains: Sequence[Toolchain] = HERE) -> Host:
    gpus = [host_gpu(kind, at) for at, kind in enumerate(kinds)]
    return Host(platform="linux-x86_64", gpus=gpus, toolchains=toolchains)


def engine(
    name: str,
    *,
    kind: Gpu | None = H200,
    capabilities: tuple[str, ...] = (),
    chain: Toolchain | None = None,
    builder: Mapping[str, object] | None = None,
    driver: str | None = None,
    platform: str = "linux-x86_64",
) -> Candidate:
    """The engine `variant@target` of that name."""
    variant, _, target = name.partition("@")
    where = Target(
        name=target,
        toolchain=chain or (RTX if capabilities else CLASSIC),
        platform=platform,
        gpu=None if capabilities else kind,
        compute_capabilities=capabilities,
        driver=driver,
        builder={},
    )
    asked = Variant(
        spec="ocr",
        name=variant,
        precision=Precision(name="fp16"),
        profiles=(),
        builder=builder or {},
        target=where,
    )
    found = recipe(asked, resolve(asked.builder, where))
    return Candidate(variant=variant, target=target, recipe=document(found))


def chosen(candidates: Sequence[Candidate], at: Host, **asked: str) -> str:
    return select(candidates, at, spec="staging/ocr", **asked).candidate.name


def refusal(candidates: Sequence[Candidate], at: Host | None, **asked: str) -> Exception:
    with pytest.raises((HostUnfit, UsageError)) as found:
        select(candidates, at, spec="staging/ocr", **asked)
    return found.value


def why_not(candidate: Candidate, at: Host) -> str:
    """What is said of one engine where no other is there."""
    error = refusal([candidate], at)
    assert isinstance(error, HostUnfit)
    assert error.exit_code == 5
    return error.args[0].splitlines()[1].partition(": ")[2]  # type: ignore[no-any-return]


EXACT = engine("fp16@h200")
SAME = engine("fp16@hopper", builder={"hardware_compatibility": "same_compute_capability"})
AMPERE = engine("fp16@any", builder={"hardware_compatibility": "ampere_plus"})
LIST = engine("fp16@rtx", capabilities=("8.9", "9.0"))
ALL = (LIST, AMPERE, SAME, EXACT)


@pytest.mark.parametrize(
    ("kind", "name", "how"),
    [
        (H200, "fp16@h200", "gpu"),
        (H100, "fp16@hopper", "same_compute_capability"),
        (L4, "fp16@any", "ampere_plus"),
    ],
    ids=["the very GPU", "its compute capability", "Ampere and later"],
)
def test_the_closest_engine_is_chosen(kind: Gpu, name: str, how: str) -> None:
    found = select(ALL, host(kind), spec="staging/ocr")
    assert (found.candidate.name, found.how) == (name, how)
    assert found.gpu is not None
    assert found.gpu.gpu == kind


def test_a_list_of_capabilities_is_chosen_where_nothing_closer_is() -> None:
    found = select([EXACT, LIST], host(L4), spec="staging/ocr")
    assert (found.candidate.name, found.how) == ("fp16@rtx", "compute_capabilities")
    assert found.words == "built for several GPUs, 'NVIDIA L4' among them"


def test_the_order_of_the_candidates_does_not_matter() -> None:
    assert {chosen(order, host(H200)) for order in (ALL, ALL[::-1])} == {"fp16@h200"}


def test_the_others_are_told_why_not() -> None:
    found = select([EXACT, SAME, engine("fp16@l4", kind=L4)], host(H200), spec="staging/ocr")
    assert found.others == {
        "fp16@hopper": "it would run here too, and fp16@h200 fits closer",
        "fp16@l4": "it is for 'NVIDIA L4', and this host has 'NVIDIA H200' (GPU-0), whose name is "
        "'NVIDIA H200', expected 'NVIDIA L4'; compute capability is '9.0', expected '8.9'; the "
        "number of SMs is 132, expected 58",
    }


def test_it_is_chosen_for_the_first_gpu_that_any_engine_is_for() -> None:
    candidates = [engine("fp16@l4", kind=L4), AMPERE]
    found = select(candidates, host(T4, H200, L4), spec="staging/ocr")
    assert found.candidate.name == "fp16@any"
    assert found.gpu is not None
    assert found.gpu.index == 1
    assert found.others == {"fp16@l4": "it would run on 'NVIDIA L4' (GPU-2)"}


def test_a_pinned_driver_is_closer_than_none() -> None:
    pinned = engine("fp16@pinned", driver="580.159.04")
    assert chosen([EXACT, pinned], host(H200)) == "fp16@pinned"


def test_another_driver_than_the_pinned_one_is_refused() -> None:
    assert why_not(engine("fp16@h200", driver="570.1"), host(H200)) == (
        "it is for 'NVIDIA H200', and this host has 'NVIDIA H200' (GPU-0), whose driver is "
        "580.159.04, expected 570.1"
    )


def test_a_driver_that_is_too_old_for_its_cuda_is_refused() -> None:
    new = Toolchain(backend="tensorrt", version="11.4.0.106", cuda="13")
    old = Host(platform="linux-x86_64", gpus=[host_gpu(cuda="12.8")], toolchains=[new])
    assert "knows CUDA up to 12.8, expected 13" in why_not(engine("fp16@h200", chain=new), old)


def test_another_version_is_refused_with_the_command_that_installs_it() -> None:
    newer = Toolchain(backend="tensorrt", version="11.4.0.106", cuda="13")
    assert why_not(EXACT, host(H200, toolchains=[newer])) == (
        "it needs tensorrt 10.13.3.9 (CUDA 12.9), and this host has tensorrt 11.4.0.106 (CUDA 13):"
        " python -m pip install tensorrt-cu12==10.13.3.9"
    )


def test_the_same_version_for_another_cuda_is_refused() -> None:
    other = Toolchain(backend="tensorrt", version="10.13.3.9", cuda="13")
    assert "this host has tensorrt 10.13.3.9 (CUDA 13)" in why_not(
        EXACT, host(H200, toolchains=[other])
    )


def test_a_missing_library_is_told_with_the_command_that_installs_it() -> None:
    assert why_not(LIST, host(H200, toolchains=HERE[:1])) == (
        "tensorrt_rtx 1.7.1.116 (CUDA 12) is not installed here: "
        "python -m pip install tensorrt-rtx-cu12==1.7.1.116"
    )


def test_two_libraries_in_one_folder_are_refused() -> None:
    both = [CLASSIC, replace(CLASSIC, cuda="13")]
    assert "which one loads is left to chance" in why_not(EXACT, host(H200, toolchains=both))


@pytest.mark.parametrize(
    ("built", "here", "runs"),
    [
        ("10.13.3.9", "10.14.0.1", True),
        ("10.13.3.9", "11.0.0.1", True),
        ("8.6.1", "10.13.3.9", True),
        ("10.13.3.9", "10.12.0.1", False),
        ("8.6.1", "11.0.0.1", False),
        ("8.5.3", "8.6.1", False),
        ("11.0.0.1", "10.13.3.9", False),
    ],
)
def test_a_version_compatible_engine_runs_on_the_releases_that_nvidia_says(
    built: str, here: str, runs: bool
) -> None:
    candidate = engine(
        "fp16@h200",
        chain=replace(CLASSIC, version=built),
        builder={"version_compatible": True},
    )
    at = host(H200, toolchains=[replace(CLASSIC, version=here)])
    if runs:
        assert chosen([candidate], at) == "fp16@h200"
    else:
        assert "or a later one that is compatible with it" in why_not(candidate, at)


def test_this_very_version_is_closer_than_a_compatible_one() -> None:
    older = engine(
        "fp16@old",
        chain=replace(CLASSIC, version="10.9.0.34"),
        builder={"version_compatible": True},
    )
    assert chosen([older, EXACT], host(H200)) == "fp16@h200"


def test_without_its_lean_runtime_a_version_compatible_engine_needs_its_version() -> None:
    lean = engine(
        "fp16@h200",
        chain=replace(CLASSIC, version="10.9.0.34"),
        builder={"version_compatible": True, "exclude_lean_runtime": True},
    )
    assert "it needs tensorrt 10.9.0.34" in why_not(lean, host(H200))


def test_another_platform_is_refused() -> None:
    arm = engine("fp16@h200", platform="linux-aarch64")
    assert why_not(arm, host(H200)) == "it is for linux-aarch64, and this host is linux-x86_64"


def test_an_engine_that_was_built_here_for_windows_is_refused() -> None:
    other = engine("fp16@h200", builder={"runtime_platform": "windows_amd64"})
    assert why_not(other, host(H200)) == "it is for windows-x86_64, and this host is linux-x86_64"


def test_without_a_gpu_nothing_runs_and_all_targets_are_told() -> None:
    error = refusal([*ALL, engine("fp32@h200")], host(toolchains=HERE))
    none = "and this host shows no NVIDIA GPU: there is none, no driver, or CUDA_VISIBLE_DEVICES "
    assert isinstance(error, HostUnfit)
    assert str(error) == (
        "no engine of 'staging/ocr' runs on this host; there are those for\n"
        f"  rtx (fp16): it is for GPUs of compute capability 8.9 or 9.0, {none}hides it\n"
        f"  any (fp16): it is for GPUs of compute capability 8.0 or higher, {none}hides it\n"
        f"  hopper (fp16): it is for GPUs of compute capability 9.0, {none}hides it\n"
        f"  h200 (fp16, fp32): it is for 'NVIDIA H200', {none}hides it\n"
        "hint: `engineforge target detect` prints a target for this host, to build it for; "
        "--target fetches one for another"
    )


@pytest.mark.parametrize(
    ("candidate", "said"),
    [
        (AMPERE, "compute capability is '7.5', expected 8.0 or higher"),
        (SAME, "compute capability is '7.5', expected '9.0'"),
        (LIST, "compute capability is '7.5', expected '8.9' or '9.0'"),
    ],
    ids=lambda value: value.name if isinstance(value, Candidate) else "",
)
def test_a_gpu_of_another_generation_is_refused(candidate: Candidate, said: str) -> None:
    assert why_not(candidate, host(T4)).endswith(
        f"and this host has 'Tesla T4' (GPU-0), whose {said}"
    )


def test_variants_that_fit_equally_well_are_asked_about() -> None:
    error = refusal([EXACT, engine("fp32@h200"), AMPERE], host(H200))
    assert str(error) == (
        "2 variants of 'staging/ocr' run equally well on 'NVIDIA H200': 'fp16', 'fp32'\n"
        "hint: choose one with --variant"
    )


def test_a_variant_can_be_named() -> None:
    found = select([EXACT, engine("fp32@h200")], host(H200), spec="staging/ocr", variant="fp32")
    assert found.candidate.name == "fp32@h200"
    assert found.others == {"fp16@h200": "another variant was asked for"}


def test_a_variant_that_fits_closer_is_no_question() -> None:
    assert chosen([EXACT, replace(AMPERE, variant="portable")], host(H200)) == "fp16@h200"


def test_targets_that_fit_equally_well_are_asked_about() -> None:
    error = refusal([EXACT, replace(EXACT, target="h200-too")], host(H200))
    assert str(error) == (
        "2 engines of 'staging/ocr' run equally well on 'NVIDIA H200': 'fp16@h200', "
        "'fp16@h200-too'\nhint: choose one with --target"
    )


def test_a_target_is_fetched_for_whichever_host() -> None:
    assert chosen([EXACT, LIST], host(T4, toolchains=()), target="h200") == "fp16@h200"
    found = select([EXACT, LIST], None, spec="staging/ocr", target="rtx")
    assert (found.candidate.name, found.how, found.gpu) == ("fp16@rtx", "asked", None)


def test_a_target_with_several_variants_is_asked_about() -> None:
    error = refusal([EXACT, engine("fp32@h200")], None, target="h200")
    assert str(error).startswith(
        "2 variants of 'staging/ocr' are for the target 'h200': 'fp16', 'fp32'\n"
    )


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"variant": "int8"}, "'staging/ocr' has no variant 'int8'\nhint: its variants are 'fp16'"),
        (
            {"target": "orin"},
            "'staging/ocr' has no target 'orin'\nhint: its targets are 'h200', 'rtx'",
        ),
    ],
)
def test_a_name_that_is_not_there_is_told_with_those_that_are(
    asked: dict[str, str], message: str
) -> None:
    error = refusal([EXACT, LIST], host(H200), **asked)
    assert isinstance(error, UsageError)
    assert str(error) == message


def test_a_pair_of_names_that_is_not_there_is_told_with_those_that_are() -> None:
    found = refusal([EXACT, replace(LIST, variant="int8")], None, variant="int8", target="h200")
    assert "no engine of variant 'int8' for the target 'h200'" in str(found)
    assert "'fp16@h200', 'int8@rtx'" in str(found)


def _without(name: str) -> dict[str, Any]:
    return {key: value for key, value in EXACT.recipe.items() if key != name}


@pytest.mark.parametrize(
    "spoilt",
    [
        {},
        _without("toolchain"),
        _without("target"),
        {**EXACT.recipe, "target": {"platform": "linux-x86_64"}},
        {**EXACT.recipe, "target": {"platform": "linux-x86_64", "gpu": {"name": "H200"}}},
        {**EXACT.recipe, "target": {**EXACT.recipe["target"], "firmware": "1"}},
        {**EXACT.recipe, "builder": {"hardware_compatibility": "blackwell_plus"}},
    ],
    ids=["empty", "no toolchain", "no target", "no GPU", "half a GPU", "more", "another level"],
)
def test_what_is_not_understood_is_not_run(spoilt: Mapping[str, Any]) -> None:
    candidate = Candidate(variant="fp16", target="h200", recipe=spoilt)
    assert "not said in a way that this version knows" in why_not(candidate, host(H200))


def test_neither_host_nor_target_is_a_question() -> None:
    assert "choose with --target" in str(refusal([EXACT], None))
