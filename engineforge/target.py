"""Where an engine will run: backend, exact toolchain, and the identity of the GPU.

Owns how two targets differ. Does not look at this host; `backends` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from engineforge.digest import document


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolchain:
    """The libraries that compile the engine: names and versions as their packages give them.

    The ONNX parser comes in the same package as the builder, so the version covers it.
    """

    backend: str
    version: str
    cuda: str

    def __str__(self) -> str:
        return f"{self.backend} {self.version} (CUDA {self.cuda})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """What TensorRT itself compares of a GPU (NVIDIA/TensorRT#3829, #3911). Sizes in bytes."""

    name: str
    compute_capability: str
    sm_count: int
    memory: int
    memory_bus_width: int
    l2_cache: int
    shared_memory_per_block: int
    shared_memory_per_sm: int
    ecc: bool
    mig_profile: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A field of `Gpu` that two GPUs have different values of; reads as a clause of a sentence."""

    field: str
    expected: object
    found: object

    def __str__(self) -> str:
        what = _NAMES.get(self.field, self.field.replace("_", " "))
        expected, found = (_value(self.field, each) for each in (self.expected, self.found))
        return f"{what} is {found}, expected {expected}"


_NAMES = {
    "sm_count": "the number of SMs",
    "l2_cache": "L2 cache",
    "shared_memory_per_sm": "shared memory per SM",
    "ecc": "ECC",
    "mig_profile": "the MIG profile",
}
_SIZES = frozenset({"memory", "l2_cache", "shared_memory_per_block", "shared_memory_per_sm"})
_MEMORY_TOLERANCE = 0.01


def _value(field: str, value: object) -> str:
    if field == "ecc":
        return "on" if value else "off"
    if field == "memory_bus_width":
        return f"{value} bits"
    if isinstance(value, str):
        return f"'{value}'"
    return f"{value} B" if field in _SIZES else "none" if value is None else str(value)


def gpu_differences(expected: Gpu, found: Gpu) -> list[Difference]:
    """In what a GPU is not the expected one, in the order of the fields.

    Memory may differ by 1 %: what a driver or firmware keeps for itself changes with its version.
    """
    return [
        Difference(field=each.name, expected=wanted, found=there)
        for each in fields(Gpu)
        if (wanted := getattr(expected, each.name)) != (there := getattr(found, each.name))
        and not (each.name == "memory" and abs(wanted - there) <= _MEMORY_TOLERANCE * wanted)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A named place to run; the name is for people and in no key."""

    name: str
    toolchain: Toolchain
    platform: str
    compute_capabilities: tuple[str, ...] = ()
    gpu: Gpu | None = None
    driver: str | None = None
    builder: Mapping[str, object]

    def __post_init__(self) -> None:
        if (self.gpu is None) == (not self.compute_capabilities):
            raise ValueError("a target has either a GPU or a list of compute capabilities")

    def identity(self) -> dict[str, object]:
        """What of the target an engine depends on, as plain JSON; its toolchain stands beside it.

        The builder options that a target carries reach a key with the other options.
        """
        whole: dict[str, object] = {"platform": self.platform}
        if self.gpu is not None:
            whole["gpu"] = document(self.gpu)
        else:
            whole["compute_capabilities"] = list(self.compute_capabilities)
        if self.driver is not None:
            whole["driver"] = self.driver
        return whole


def same_version(one: str, other: str) -> bool:
    """Whether two versions are equal as far as the less precise one goes: packages may give a major
    version only, and TensorRT's library a build number that its package has not."""
    return all(a == b for a, b in zip(one.split("."), other.split("."), strict=False))


def sorted_capabilities(found: list[str]) -> tuple[str, ...]:
    """Compute capabilities in rising order; TensorRT-RTX gives equal bytes for every order."""
    return tuple(sorted(set(found), key=lambda text: tuple(int(part) for part in text.split("."))))
