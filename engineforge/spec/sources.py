"""Where a model comes from: the values of a spec's `model`, and its text made into them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import urlsplit

from engineforge.spec.url import shown


@dataclass(frozen=True, slots=True, kw_only=True)
class PathSource:
    """An ONNX file, relative to the folder of the spec."""

    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageSource:
    """An ONNX file inside an installed Python package, relative to the package's folder."""

    package: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlFile:
    """A file elsewhere, and what it is by content; None where the lock file says that."""

    url: str
    sha256: str | None = None

    @property
    def name(self) -> str:
        """What it is called where it is."""
        return urlsplit(self.url).path.rpartition("/")[2]

    @property
    def shown(self) -> str:
        """The URL without what may be a secret in it: user, password, signature."""
        return shown(self.url)


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlSource:
    """An ONNX file elsewhere, and the files of its external data, each under its own name."""

    model: UrlFile
    external: tuple[UrlFile, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PytorchSource:
    """A model of PyTorch, by one of three: a saved ExportedProgram (`program`), a TorchScript
    archive (`torchscript`), or a function that returns an `nn.Module` (`module`).

    `weights` (.safetensors or .pt) and `arguments` are for the function alone, `files` are what its
    module imports from beside the spec, `packages` the installed ones that it imports. `inputs` are
    element types by name; an input that is not there is float32. With `trust`, pickles may run
    code.
    """

    program: str | None = None
    torchscript: str | None = None
    module: str | None = None
    weights: str | None = None
    arguments: Mapping[str, object] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    opset: int | None = None
    trust: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorflowSource:
    """A model of TensorFlow: a SavedModel folder, or a file of Keras (.keras or .h5). With `trust`,
    the Python code inside a Keras file may run."""

    saved_model: str | None = None
    keras: str | None = None
    signature: str | None = None
    outputs: tuple[str, ...] = ()
    opset: int | None = None
    trust: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SklearnSource:
    """A pickled estimator or pipeline of scikit-learn: code, which only `trust` lets run."""

    model: str
    outputs: tuple[str, ...] = ()
    opset: int | None = None
    trust: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSource:
    """A function that fills TensorRT's own network definition, with `weights` (.safetensors or
    .npz) and `arguments`; `files` are what its module imports from beside the spec, `packages` the
    installed ones."""

    function: str
    weights: str | None = None
    arguments: Mapping[str, object] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()


Framework = PytorchSource | TensorflowSource | SklearnSource
MadeSource = Framework | NetworkSource
Source = PathSource | PackageSource | UrlSource | MadeSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """What is done to a model before anything else: `simplify` and `infer_shapes` as they say,
    `opset` raises or lowers it, `outputs` are those that it is to have (new name -> tensor),
    `dimensions` gives symbolic dimensions of its inputs a size."""

    simplify: bool = False
    infer_shapes: bool = False
    opset: int | None = None
    outputs: Mapping[str, str] = field(default_factory=dict)
    dimensions: Mapping[str, int] = field(default_factory=dict)

    @property
    def asked(self) -> bool:
        return self != Preparation()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """A source, and how its ONNX model is prepared."""

    source: Source
    prepare: Preparation = field(default_factory=Preparation)


@dataclass(frozen=True, slots=True, kw_only=True)
class InputAxes:
    """What an exporter is told of an input: its element type, the sizes of its axes, None for one
    that varies, and a shape to export with, whose axes that vary have a size of some profile;
    whether axis 0 is the `batch`, which varies as that of all other inputs does."""

    type: str
    dims: tuple[int | None, ...]
    example: tuple[int, ...]
    batch: bool = False


def parse_model(raw: Mapping[str, Any]) -> ModelSource:
    """The `model` of a spec that fits the schema."""
    given, prepare = raw["source"], raw.get("prepare", {})
    preparation = Preparation(
        simplify=prepare.get("simplify", False),
        infer_shapes=prepare.get("infer_shapes", False),
        opset=prepare.get("opset"),
        outputs=_outputs(prepare.get("outputs", {})),
        dimensions=prepare.get("dimensions", {}),
    )
    return ModelSource(source=_source(given), prepare=preparation)


def _outputs(given: Mapping[str, str] | list[str]) -> dict[str, str]:
    return {each: each for each in given} if isinstance(given, list) else dict(given)


def _source(given: Mapping[str, Any]) -> Source:
    if "package" in given:
        return PackageSource(package=given["package"], path=given["path"])
    if "path" in given:
        return PathSource(path=given["path"])
    if "url" in given:
        external = tuple(UrlFile(**each) for each in given.get("external", ()))
        return UrlSource(
            model=UrlFile(url=given["url"], sha256=given.get("sha256")), external=external
        )
    if isinstance(given.get("network"), str):
        return NetworkSource(function=given["network"])
    kind = next(name for name in _MADE if name in given)
    return _made(kind, given[kind])


def _made(kind: str, given: Mapping[str, Any]) -> MadeSource:
    make: Callable[..., MadeSource] = _MADE[kind]
    return make(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})


def write_source(source: MadeSource) -> dict[str, Any]:
    """A source that code makes a model of, as plain JSON for a child process."""
    return {"kind": key_of(source), **asdict(source)}


def read_source(raw: Mapping[str, Any]) -> MadeSource:
    """What `write_source` wrote."""
    return _made(raw["kind"], {name: value for name, value in raw.items() if name != "kind"})


def key_of(source: Source) -> str:
    """The key of `model: {source: …}` that says what a source is."""
    match source:
        case PathSource() | PackageSource():
            return "path"
        case UrlSource():
            return "url"
    return next(name for name, kind in _MADE.items() if isinstance(source, kind))


_MADE: Mapping[str, type[MadeSource]] = {
    "pytorch": PytorchSource,
    "tensorflow": TensorflowSource,
    "sklearn": SklearnSource,
    "network": NetworkSource,
}
