"""The option table against the real API names of five TensorRT versions, and the live RTX."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engineforge.backends.options import BY_NAME, OPTIONS, Option, honoured, refusals, resolve
from engineforge.target import Target, Toolchain
from tests.gpus import H200

# Members of TensorRT's Python classes, as the wheels of these versions report them.
API: dict[str, dict[str, list[str]]] = json.loads(
    (Path(__file__).parent / "trt_api.json").read_text()
)
_HOLDERS = {
    "flag": ("BuilderFlag",),
    "value": ("IBuilderConfig",),
    "pool": ("MemoryPoolType",),
    "parser": ("OnnxParserFlag",),
    "network": ("INetworkDefinition", "ITensor", "ILayer", "IBuilderConfig", "IAttention"),
    "plugin": ("IBuilderConfig", "IPluginRegistry", "OnnxParser"),
}


def target(backend: str, version: str) -> Target:
    classic = backend == "tensorrt"
    return Target(
        name="there",
        toolchain=Toolchain(backend=backend, version=version, cuda="12"),
        platform="linux-x86_64",
        compute_capabilities=() if classic else ("8.9",),
        gpu=H200 if classic else None,
        builder={},
    )


def _exists(option: Option, names: dict[str, list[str]]) -> bool:
    if option.kind in ("enum", "tactic_sources", "preview"):
        return option.api in names
    return any(option.api in names.get(holder, []) for holder in _HOLDERS[option.kind])


@pytest.mark.parametrize("version", [name for name in API if name.startswith("tensorrt ")])
@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_classic_options_are_had_exactly_by_the_versions_whose_api_has_them(
    option: Option, version: str
) -> None:
    backend, number = version.split()
    had = option in list(honoured(target(backend, number)))
    exists = _exists(option, API[version]) and option.tensorrt is not None
    # One call loads plugins of every kind, so its name does not tell which kinds there are.
    assert had <= exists if option.kind == "plugin" else had == exists


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_what_tensorrt_rtx_honours_its_api_has(option: Option) -> None:
    if option in list(honoured(target("tensorrt_rtx", "1.7.1.116"))):
        assert _exists(option, API["tensorrt_rtx 1.7.1.116"])


@pytest.mark.parametrize("name", ["optimization_level", "hardware_compatibility", "DLA_core"])
def test_what_tensorrt_rtx_takes_without_a_word_is_refused(name: str) -> None:
    (refusal,) = refusals({name: 1}, target("tensorrt_rtx", "1.7.1.116"))
    assert refusal.option == name
    assert "tensorrt_rtx 1.7.1.116" in refusal.message
    assert "tensorrt" in refusal.hint


def test_every_option_of_a_target_is_resolved_to_a_value() -> None:
    for version in API:
        there = target(*version.split())
        assert set(resolve({}, there)) == {option.name for option in honoured(there)}


def test_the_workspace_defaults_to_a_number_for_every_target() -> None:
    assert resolve({}, target("tensorrt", "10.13.3.9"))["workspace"] == H200.memory
    assert resolve({}, target("tensorrt_rtx", "1.7.1.116"))["workspace"] == 64 << 30


def test_the_order_of_a_set_means_nothing() -> None:
    there = target("tensorrt", "10.13.3.9")
    one = resolve({"tactic_sources": ["jit_convolutions", "cublas"]}, there)
    assert one == resolve({"tactic_sources": ["cublas", "jit_convolutions"]}, there)


def test_names_are_unique() -> None:
    assert len(BY_NAME) == len(OPTIONS)


@pytest.mark.parametrize("name", ["layer_precisions", "obey_precision_constraints"])
def test_weak_typing_is_for_tensorrt_8_only(name: str) -> None:
    assert refusals({name: {}}, target("tensorrt", "8.6.0")) == []
    (refusal,) = refusals({name: {}}, target("tensorrt", "10.13.3.9"))
    assert "strongly typed" in refusal.message
