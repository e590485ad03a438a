"""What Triton has to know of an engine, read from its entry's manifest; and whether Triton can
serve it at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from engineforge.digest import Digest
from engineforge.errors import EngineForgeError
from engineforge.plan.keys import plugins_of
from engineforge.spec.model import InputRange, Profile, ShapeRange
from engineforge.store.local import ENGINE
from engineforge.store.manifest import Manifest, StoredFile

TRITON_TYPES: Mapping[str, str] = {
    "FLOAT": "TYPE_FP32",
    "HALF": "TYPE_FP16",
    "BF16": "TYPE_BF16",
    "INT64": "TYPE_INT64",
    "INT32": "TYPE_INT32",
    "INT8": "TYPE_INT8",
    "UINT8": "TYPE_UINT8",
    "BOOL": "TYPE_BOOL",
}
"""TensorRT's DataType -> Triton's, from the table in Triton's model_configuration.md."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """An engine of an environment: under which names it is there, the digest of its image manifest,
    and its verified file."""

    spec: str
    variant: str
    target: str
    digest: Digest
    manifest: Manifest
    file: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """An input or output: -1 in `dims` is a dimension that changes, whose name, where it has one,
    is in `dimensions`."""

    name: str
    data_type: str
    dims: tuple[int, ...]
    dimensions: tuple[str | None, ...]
    shape_tensor: bool
    linear: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """What all engines of one model have to have alike."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    profiles: tuple[Profile, ...]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (*self.inputs, *self.outputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """An engine as Triton sees it, for GPUs of these compute capabilities; without any it is
    portable: for all since Ampere. `needs` says how Triton has to be started."""

    exported: Exported
    stored: StoredFile
    capabilities: tuple[str, ...]
    interface: Interface
    needs: tuple[str, ...]

    @property
    def file_name(self) -> str:
        """Its name in a version's folder: by what it runs on, since Triton chooses by that."""
        words = [each.replace(".", "_") for each in self.capabilities] or ["ampere_and_later"]
        return f"model_{'_'.join(words)}.engine"


def engine_of(exported: Exported, *, backend: str | None) -> Engine:
    """An engine that Triton's TensorRT backend loads, or the `backend` of that name, which is
    somebody's own. EngineForgeError, with the reason, for one that it does not."""
    try:
        recipe = exported.manifest.key_document["recipe"]
        builder, target = recipe["builder"], recipe["target"]
        flavour = recipe["toolchain"]["backend"]
        stored = exported.manifest.files[ENGINE]
        profiles = tuple(_profile(each) for each in recipe["profiles"])
        interface = exported.manifest.record.get("interface")
        version = str(recipe["toolchain"]["version"])
        # A portable engine's key has no GPU: it is for whichever comes.
        portable = builder.get("hardware_compatibility") == "ampere_plus"
        capabilities = () if portable else _capabilities(target)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _unreadable(exported, error) from error
    if backend is None:
        _refuse_unserved(exported, flavour, builder)
    if interface is None:
        raise EngineForgeError(
            f"{_called(exported)} was built before its inputs and outputs were recorded as Triton "
            "needs them",
            hint="build it again with an empty cache ('--cache DIR'), and promote that",
        )
    try:
        formats = builder.get("io_formats") or {}
        ends = {
            kind: tuple(_tensor(exported, each, formats) for each in interface[kind])
            for kind in ("inputs", "outputs")
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _unreadable(exported, error) from error
    return Engine(
        exported=exported,
        stored=stored,
        capabilities=capabilities,
        interface=Interface(profiles=profiles, **ends),
        needs=() if backend else tuple(_needs(builder, version)),
    )


def _capabilities(target: Mapping[str, Any]) -> tuple[str, ...]:
    if "gpu" in target:
        return (str(target["gpu"]["compute_capability"]),)
    return tuple(str(each) for each in target["compute_capabilities"])


def _called(exported: Exported) -> str:
    return f"'{exported.spec}/{exported.variant}@{exported.target}'"


def _unreadable(exported: Exported, error: Exception) -> EngineForgeError:
    return EngineForgeError(
        f"the manifest of {_called(exported)} has not what Triton needs: {error!r}",
        hint="was it written by a later version of engineforge?",
    )


def _refuse_unserved(exported: Exported, flavour: str, builder: Mapping[str, Any]) -> None:
    def refuse(why: str, hint: str) -> NoReturn:
        raise EngineForgeError(f"{_called(exported)} {why}", hint=hint)

    if flavour != "tensorrt":
        # Its CMakeLists.txt links libnvinfer; libtensorrt_rtx has a format of its own.
        refuse(
            f"is an engine of '{flavour}', and Triton's TensorRT backend loads those of classic "
            "TensorRT only",
            "build for a target with 'backend: tensorrt', or name your own Triton backend that "
            "loads it: --backend NAME",
        )
    if builder.get("strip_plan"):
        refuse(
            "was built without its weights ('strip_plan'), and Triton does not refit engines",
            "build a variant without 'strip_plan'",
        )
    if (capability := builder.get("engine_capability", "standard")) != "standard":
        refuse(
            f"was built with engine_capability '{capability}', and Triton loads 'standard' ones",
            "build a variant without 'engine_capability'",
        )
    if "dla" in str(builder.get("default_device_type", "gpu")):
        refuse(
            "runs on a DLA core, and which one Triton should take is not known here",
            "build a variant with default_device_type 'gpu'",
        )


def _needs(builder: Mapping[str, Any], version: str) -> list[str]:
    """What a Triton that serves this engine must be or be started with."""
    if builder.get("version_compatible"):
        return [
            f"TensorRT {version} or a later one, and "
            "--backend-config=tensorrt,version-compatible=true",
            *_plugins(builder),
        ]
    return [f"TensorRT {version}", *_plugins(builder)]


def _plugins(builder: Mapping[str, Any]) -> list[str]:
    if not (found := plugins_of(builder)):
        return []
    return [f"--backend-config=tensorrt,plugins=… with its plugin libraries: {', '.join(found)}"]


def _profile(raw: Mapping[str, Any]) -> Profile:
    return {
        name: InputRange(
            **{
                kind: ShapeRange(**{at: tuple(dims) for at, dims in bounds.items()})
                for kind, bounds in ranges.items()
                if bounds
            }
        )
        for name, ranges in raw.items()
    }


def _tensor(exported: Exported, raw: Mapping[str, Any], formats: Mapping[str, Any]) -> Tensor:
    name, dtype, dims = str(raw["name"]), raw["dtype"], tuple(int(each) for each in raw["dims"])
    where = f"{_called(exported)}: '{name}'"
    if dtype not in TRITON_TYPES:
        raise EngineForgeError(
            f"{where} has TensorRT's type '{dtype}', and Triton has none for it",
            hint="keep inputs and outputs in a wider type: precision option 'keep_io_types'",
        )
    allowed = (formats.get(name) or {}).get("formats") or ["linear"]
    if len(allowed) > 1:
        raise EngineForgeError(
            f"{where} may have one of several formats ({', '.join(allowed)}), and Triton has to be "
            "told whether it is linear",
            hint=f"allow one: io_formats: {{{name}: {{formats: [linear]}}}}",
        )
    if raw["shape_tensor"] and not dims:
        raise EngineForgeError(
            f"{where} is a shape tensor without dimensions, and Triton has only those with one",
            hint="make it a list of one value in the model",
        )
    return Tensor(
        name=name,
        data_type=TRITON_TYPES[dtype],
        dims=dims,
        dimensions=tuple(raw["dimensions"]),
        shape_tensor=bool(raw["shape_tensor"]),
        linear=allowed == ["linear"],
    )
