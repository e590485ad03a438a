"""Every TensorRT name that the package uses, held against what five versions have.

`trt_api.json` has the members of the classes and enums that the code uses, and the functions, as
the Python wheels of these versions report them. The wheels leave out `name`, and from 10 on what
subclasses of IOutputAllocator define.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import engineforge
from engineforge.backends.options import _PREVIEWS, OPTIONS, honoured
from engineforge.backends.settings import _ENUM_ATTRIBUTES, _NO_OPTIONS
from tests.backends.test_options import API, target

PACKAGE = Path(engineforge.__file__).parent
# All but one that loads no library, and whose `builder` are options.
FILES = [
    file
    for room in ("backends", "runtime")
    for file in sorted((PACKAGE / room).glob("*.py"))
    if file.name != "host.py"
]
SCHEMA = json.loads((PACKAGE / "spec" / "schema.json").read_text())

# What objects of TensorRT are called, as variables and as attributes of `self`; '' is the module.
_OBJECTS = {
    "attention": "IAttention",
    "boundary": "IAttentionInputLayer",
    "config": "IBuilderConfig",
    "context": "IExecutionContext",
    "convolution": "IConvolutionLayer",
    "cuda_engine": "ICudaEngine",
    "inspector": "EngineInspector",
    "layer": "ILayer",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "registry": "IPluginRegistry",
    "runtime": "Runtime",
    "timing_cache": "ITimingCache",
    "trt": "",
}
_OBJECTS_IN: Mapping[str, Mapping[str, str]] = {
    "backends": {"builder": "Builder", "tensor": "ITensor"},
    "misread.py": {"kinds": "LayerType"},
    "network.py": {"profile": "IOptimizationProfile", "error": "ParserError"},
    "weak.py": {"kinds": "LayerType", "types": "DataType"},
}
_MADE_BY = {"get_timing_cache": "ITimingCache", "get_plugin_registry": "IPluginRegistry"}

_ALL = frozenset(API)
_8 = frozenset({"tensorrt 8.6.0"})
_RTX = frozenset({"tensorrt_rtx 1.7.1.116"})
_FROM_10 = _ALL - _8
_FROM_10_16 = _FROM_10 - {"tensorrt 10.13.3.9"}

# Names that not every version has, and those with which the code uses them.
CONDITIONAL: Mapping[str, frozenset[str]] = {
    "Builder.build_serialized_network_to_stream": _FROM_10,
    "BuilderFlag.PREFER_PRECISION_CONSTRAINTS": _8,
    "ComputeCapability": _RTX,
    "IAttention.decomposable": _FROM_10_16,
    "IAttentionInputLayer": _FROM_10_16,
    "IAttentionInputLayer.attention": _FROM_10_16,
    "IAttentionInputLayer.type": _FROM_10_16,
    "IBuilderConfig.get_compute_capability": _RTX,
    "IBuilderConfig.num_compute_capabilities": _RTX,
    "IBuilderConfig.set_compute_capability": _RTX,
    "ICudaEngine.device_memory_size": _8,
    "ICudaEngine.device_memory_size_v2": _FROM_10,
    "ICudaEngine.get_tensor_profile_values": _FROM_10,
    "ICudaEngine.streamable_weights_size": _FROM_10,
    "ICudaEngine.weight_streaming_budget_v2": _FROM_10,
    "ILayer.output_type_is_set": _8,
    "ILayer.precision": _8,
    "ILayer.precision_is_set": _8,
    "ILayer.set_output_type": _8,
    "INetworkDefinition.is_debug_tensor": _FROM_10,
    "INetworkDefinition.mark_debug": _FROM_10,
    "INetworkDefinition.mark_unfused_tensors_as_debug_tensors": _FROM_10,
    "IStreamWriter": _FROM_10,
    "ITimingCache.queryKeys": _FROM_10,
    "LayerType.ATTENTION_INPUT": _FROM_10_16,
    "NetworkDefinitionCreationFlag.EXPLICIT_BATCH": _8,
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED": _FROM_10,
    "OnnxParser.clear_flag": _FROM_10,
    "OnnxParser.get_flag": _FROM_10,
    "OnnxParser.set_flag": _FROM_10,
    "OnnxParserFlag": _FROM_10,
    "ParserError.node_name": _FROM_10,
    "ParserError.node_operator": _FROM_10,
}
# Names that versions have and their wheels do not report.
UNREPORTED = frozenset(
    {
        "ILayer.name",
        "IOutputAllocator.notify_shape",
        "IOutputAllocator.reallocate_output",
        "ITensor.name",
    }
)

# Where names are given as text: in which of these they are, and with which versions.
TEXTS: Mapping[str, tuple[tuple[str, ...], frozenset[str]]] = {
    "backends/library.py": (("ILogger",), _ALL),
    "backends/weak.py": (("BuilderFlag", "DataType", "LayerType"), _8),
    "runtime/element_types.py": (("DataType",), frozenset({"tensorrt 11.4.0.106"})),
    "runtime/formats.py": (("TensorFormat",), _ALL),
    "runtime/loaded.py": (("TensorIOMode",), _ALL),
}
_NAME = re.compile(r"[A-Z][A-Z0-9_]+")


class _Uses(ast.NodeVisitor):
    """Collects `Class.member` of every TensorRT object, and what is used of the module."""

    def __init__(self, objects: Mapping[str, str]) -> None:
        self._objects: dict[str, tuple[str, ...]] = {n: (each,) for n, each in objects.items()}
        self.found: set[str] = set()

    def _owners(self, node: ast.expr) -> tuple[str, ...]:
        """Of which classes an expression is, as far as its name tells; or which class it is."""
        match node:
            case ast.Name(id=name):
                return self._objects.get(name, ())
            case ast.Attribute(value=value, attr=name) if "" in self._owners(value):
                return (name,)
            case ast.Attribute(attr="trt" | "_trt"):
                return ("",)
            case ast.Attribute(value=ast.Name(id="self"), attr=name):
                return self._objects.get(name.removeprefix("_"), ())
            case ast.Call(func=ast.Attribute(attr=name)) if name in _MADE_BY:
                return (_MADE_BY[name],)
            case ast.IfExp(body=one, orelse=other):
                return self._owners(one) + self._owners(other)
        return ()

    def _use(self, owner: ast.expr, name: str) -> None:
        if not name.startswith("__"):
            self.found |= {f"{each}.{name}".lstrip(".") for each in self._owners(owner)}

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._use(node.value, node.attr)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        match node:
            case ast.Call(
                func=ast.Name(id="getattr" | "setattr" | "hasattr"),
                args=[owner, ast.Constant(value=str(name)), *_],
            ):
                self._use(owner, name)
        self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """What a subclass defines, TensorRT calls."""
        for base in node.bases:
            for each in node.body:
                if isinstance(each, ast.FunctionDef):
                    self._use(base, each.name)
        self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        outside = dict(self._objects)
        self.generic_visit(node)
        self._objects = outside

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        self._called(node.targets[0], node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.generic_visit(node)
        self._called(node.target, node.value)

    def _called(self, target: ast.expr, value: ast.expr | None) -> None:
        """In this function, another name for an object or class."""
        owners = () if value is None else self._owners(value)
        if isinstance(target, ast.Name) and owners:
            self._objects[target.id] = owners


def uses(source: str, room: str = "backends", name: str = "") -> set[str]:
    visitor = _Uses({**_OBJECTS, **_OBJECTS_IN.get(room, {}), **_OBJECTS_IN.get(name, {})})
    visitor.visit(ast.parse(source))
    return visitor.found


def has(version: str, name: str) -> bool:
    owner, _, member = name.partition(".")
    names = API[version]
    if not member:
        return owner in names or owner in names["(functions)"]
    return owner in names and (member in names[owner] or name in UNREPORTED)


def lacking(version: str, names: set[str]) -> set[str]:
    """Those of the names that are used with a version and that it does not have."""
    used = {name for name in names if version in CONDITIONAL.get(name, _ALL)}
    return {name for name in used if not has(version, name)}


def texts(file: str) -> set[str]:
    constants = ast.walk(ast.parse((PACKAGE / file).read_text()))
    values = [node.value for node in constants if isinstance(node, ast.Constant)]
    return {value for value in values if isinstance(value, str) and _NAME.fullmatch(value)}


USED = set().union(*(uses(file.read_text(), file.parent.name, file.name) for file in FILES))


@pytest.mark.parametrize("version", API)
def test_every_version_has_the_names_that_are_used_with_it(version: str) -> None:
    assert lacking(version, USED) == set()


def test_what_only_some_versions_have_is_used_and_some_lack_it() -> None:
    needless = {name for name in CONDITIONAL if all(has(version, name) for version in API)}
    assert needless | (CONDITIONAL.keys() - USED) == set()


def test_what_wheels_do_not_report_is_used() -> None:
    reported = {
        name
        for name in UNREPORTED
        if all(name.partition(".")[2] in API[v].get(name.partition(".")[0], []) for v in API)
    }
    assert reported | (UNREPORTED - USED) == set()


@pytest.mark.parametrize("file", TEXTS)
def test_names_given_as_text_are_names_of_tensorrt(file: str) -> None:
    owners, versions = TEXTS[file]
    for version in versions:
        known = {member for owner in owners for member in API[version][owner]}
        assert texts(file) - known == set(), version


def test_enums_that_options_set_are_where_the_table_says() -> None:
    for version in API:
        for option in honoured(target(*version.split())):
            if option.kind == "enum":
                assert option.api in API[version]
                assert _ENUM_ATTRIBUTES[option.api] in API[version]["IBuilderConfig"]


def test_what_is_no_option_is_something_of_a_config() -> None:
    members = {member for names in API.values() for member in names["IBuilderConfig"]}
    assert members >= _NO_OPTIONS


def _values(option: Any) -> Iterator[str]:  # noqa: ANN401 - JSON Schema
    """The words that the schema of an option has for its values."""
    if isinstance(option, Mapping):
        yield from option.get("enum", ())
        for each in option.values():
            yield from _values(each)


@pytest.mark.parametrize(
    ("option", "enum"),
    [
        *((option.name, option.api) for option in OPTIONS if option.kind == "enum"),
        ("tactic_sources", "TacticSource"),
        ("layer_precisions", "DataType"),
        ("layer_output_types", "DataType"),
        ("layer_device_types", "DeviceType"),
    ],
)
def test_values_of_options_are_members_of_an_enum(option: str, enum: str) -> None:
    values = set(_values(SCHEMA["$defs"]["option"][option]))
    members = {member.lower() for names in API.values() for member in names.get(enum, ())}
    assert values
    assert values - members == set()


@pytest.mark.parametrize("version", API)
def test_preview_features_are_those_that_a_version_has(version: str) -> None:
    from packaging.specifiers import SpecifierSet

    backend, number = version.split()
    told = {
        feature.upper()
        for feature, versions in _PREVIEWS[backend].items()
        if SpecifierSet(versions).contains(number)
    }
    there = set(API[version]["PreviewFeature"])
    # What TensorRT-RTX has, it may ignore.
    assert told <= there if backend == "tensorrt_rtx" else told == there


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("config.set_flagg(flag)", "IBuilderConfig.set_flagg"),
        ("trt.BuilderFlag.FP17", "BuilderFlag.FP17"),
        ("self.trt.Bilder", "Bilder"),
        ("self._config.workspace", "IBuilderConfig.workspace"),
        ("flags = trt.BuilderFlag\nflags.FP17", "BuilderFlag.FP17"),
        ("getattr(layer, 'attention', None)", "ILayer.attention"),
        ("setattr(network, 'strong', True)", "INetworkDefinition.strong"),
        ("[tensor.is_quantized for tensor in tensors]", "ITensor.is_quantized"),
        ("x = self._config.get_timing_cache().merge(y)", "ITimingCache.merge"),
        ("class W(trt.IStreamWriter):\n  def put(self): pass", "IStreamWriter.put"),
        ("(config if a else parser).get_flags()", "OnnxParser.get_flags"),
    ],
)
def test_an_invented_name_is_reported(source: str, name: str) -> None:
    for version in API:
        assert name in lacking(version, uses(source))


def test_a_name_that_one_version_alone_has_is_reported_for_the_others() -> None:
    names = uses("runtime.get_engine_validity()")
    assert {version for version in API if lacking(version, names)} == _ALL - _RTX
