"""An engine's bytes, verified: read once, hashed while they are read, and refused where they are
not what a manifest or a digest promises. An engine is executable input, so this comes first."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engineforge.backends.library import FLAVOURS
from engineforge.digest import Digest
from engineforge.errors import EngineForgeError, StoreCorrupt
from engineforge.store.local import ENGINE, MANIFEST
from engineforge.store.manifest import BadManifest, Manifest
from engineforge.target import same_version

_CHUNK = 1 << 20
_TRIES = 5
_CLASSIC = "tensorrt"
# NVIDIA's own reading of a plan: samples/common/sampleEngines.cpp, `trtexec --getPlanVersionOnly`.
_TAG, _HEADER = b"ftrt", 28


class EngineRefused(EngineForgeError):
    """An engine that must not be deserialized here: not the promised bytes, or made for another
    TensorRT or GPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFile:
    """`data` are the very bytes that were hashed; `recipe` is what the manifest says the engine
    was built by, empty where there is none."""

    path: Path
    data: npt.NDArray[np.uint8]
    sha256: Digest
    backend: str
    recipe: Mapping[str, Any]

    @property
    def version_compatible(self) -> bool:
        return bool(self.builder.get("version_compatible"))

    @property
    def builder(self) -> Mapping[str, Any]:
        builder: Mapping[str, Any] = self.recipe.get("builder", {})
        return builder

    def check_version(self, loaded: str) -> None:
        """EngineRefused unless the loaded library is the one that the engine was built with, as
        far as both tell; one that was built version compatible is left to TensorRT."""
        if self.version_compatible:
            return
        told = {"its manifest": self.recipe.get("toolchain", {}).get("version")}
        if self.backend == _CLASSIC:
            told["its header"] = plan_version(self.data)
        for who, version in told.items():
            # TensorRT 8 knows three numbers of its version, packages and plans four.
            if version is not None and not same_version(version, loaded):
                raise EngineRefused(
                    f"'{self.path}': by {who} it was built with {self.backend} {version}, and "
                    f"{loaded} is loaded here",
                    hint="an engine runs on the version that built it: build it for this one",
                )

    def check_gpu(self, name: str, compute_capability: str) -> None:
        """EngineRefused where the manifest says that the engine is for another kind of GPU."""
        target = self.recipe.get("target", {})
        gpu, several = target.get("gpu"), target.get("compute_capabilities")
        wanted = [gpu["compute_capability"]] if gpu else several
        compatible = self.builder.get("hardware_compatibility") == "ampere_plus"
        if wanted and compute_capability not in wanted and not compatible:
            raise EngineRefused(
                f"'{self.path}' was built for compute capability {', '.join(wanted)}, and "
                f"{name} has {compute_capability}",
                hint="an engine runs on the kind of GPU that it was built for",
            )


def read_engine(
    path: Path,
    *,
    sha256: Digest | None = None,
    backend: str | None = None,
    recipe: Mapping[str, Any] | None = None,
) -> EngineFile:
    """Read and verify an entry folder, an engine file beside its manifest (`manifest.json`, or
    `NAME.manifest.json` of one with another name that was pulled), or any file by `sha256`, of
    which `recipe` may say what a manifest would.

    StoreCorrupt where a manifest is broken or does not match, EngineRefused where there is nothing
    to verify by, the file is not what `sha256` says, or is not for `backend`.
    """
    file = path / ENGINE if path.is_dir() else path
    if not file.is_file() and file.with_name(MANIFEST).exists():
        raise StoreCorrupt(f"'{file}' is missing: its manifest is there, and it is not")
    for left in range(_TRIES, -1, -1):
        manifest, following = _manifest(_beside(file)), _manifest(_next(file))
        try:
            return _verified(file, manifest, sha256, backend, recipe or {})
        except StoreCorrupt:
            # A pull replaces engine and manifest one after the other: it lays the next manifest
            # beside them first, and takes it away last.
            with contextlib.suppress(StoreCorrupt):
                if following is not None:
                    return _verified(file, following, sha256, backend, recipe or {})
            now = _manifest(_beside(file)), _manifest(_next(file))
            if not left or now == (manifest, following):
                raise
    raise AssertionError("the last try returned or raised")


def _verified(
    file: Path,
    manifest: Manifest | None,
    sha256: Digest | None,
    backend: str | None,
    recipe: Mapping[str, Any],
) -> EngineFile:
    promised, size = sha256, None
    name = ENGINE if _own_manifest(file).is_file() else file.name
    if manifest is not None and (stored := manifest.files.get(name)) is not None:
        if sha256 not in (None, stored.sha256):
            raise EngineRefused(
                f"'{file}': its manifest says {stored.sha256}, and {sha256} was asked for"
            )
        if manifest.stage != "engine":
            raise EngineRefused(f"'{file}' is of the stage '{manifest.stage}', and no engine")
        if name != ENGINE:
            raise EngineRefused(f"'{file}' is beside an engine, '{ENGINE}', and none itself")
        promised, size = stored.sha256, stored.size
        recipe = manifest.key_document["recipe"]
    elif manifest is not None and sha256 is None:
        names = ", ".join(f"'{name}'" for name in manifest.files)
        raise EngineRefused(f"'{file}': the manifest beside it is of another file: of {names}")
    if promised is None:
        raise EngineRefused(
            f"'{file}' has no {MANIFEST} beside it to verify it by",
            hint="name the entry's folder, or give the sha256 that the file must have",
        )
    data, found = _read(file, size)
    if found != promised:
        error = StoreCorrupt if sha256 is None else EngineRefused
        raise error(
            f"'{file}' is {found}, expected {promised}: it was changed, or is another file",
            hint="nothing of it was run; build it again",
        )
    told = recipe.get("toolchain", {}).get("backend")
    if told is None and bytes(data[:4]) == _TAG:
        told = _CLASSIC
    if backend is not None and told is not None and backend != told:
        raise EngineRefused(f"'{file}' was built with {told}, and {backend} was asked for")
    chosen = backend or told
    if chosen not in FLAVOURS:
        raise EngineRefused(
            f"'{file}': which library built it is not known",
            hint=f"say so: the backend is one of {', '.join(FLAVOURS)}",
        )
    return EngineFile(path=file, data=data, sha256=found, backend=chosen, recipe=recipe)


def plan_version(data: npt.NDArray[np.uint8]) -> str | None:
    """The version in the head of a classic plan; None where it has no such head."""
    head = bytes(data[:_HEADER])
    if len(head) < _HEADER or head[:4] != _TAG or any(head[4:8]):
        return None
    return ".".join(str(each) for each in head[24:28])


def _own_manifest(file: Path) -> Path:
    return file.with_name(f"{file.name}.{MANIFEST}")


def _beside(file: Path) -> Path:
    """The manifest that is the file's own, or that of the entry whose folder it is in."""
    own = _own_manifest(file)
    return own if own.is_file() else file.with_name(MANIFEST)


def _next(file: Path) -> Path:
    beside = _beside(file)
    return beside.with_name(f"{beside.name}.next")


def _manifest(path: Path) -> Manifest | None:
    try:
        return Manifest.from_bytes(path.read_bytes())
    except FileNotFoundError:
        return None
    except BadManifest as error:
        raise StoreCorrupt(f"'{path}': {error}") from error


def _read(file: Path, promised: int | None) -> tuple[npt.NDArray[np.uint8], Digest]:
    """The bytes and their digest, in one pass; StoreCorrupt where the size is another."""
    with file.open("rb", buffering=0) as stream:
        size = stream.seek(0, io.SEEK_END)
        stream.seek(0)
        if promised is not None and size != promised:
            what = "truncated" if size < promised else "longer than it was"
            raise StoreCorrupt(
                f"'{file}' has {size} bytes, expected {promised}: it is {what}",
                hint="nothing of it was run; build it again",
            )
        data = np.empty(size, np.uint8)  # not zeroed first, as a bytearray would be
        view, sha, at = data.data, hashlib.sha256(), 0
        while at < size and (read := stream.readinto(view[at : at + _CHUNK])):
            sha.update(view[at : at + read])
            at += read
    if at != size:
        raise StoreCorrupt(f"'{file}' became shorter while it was read")
    return data, Digest("sha256:" + sha.hexdigest())
