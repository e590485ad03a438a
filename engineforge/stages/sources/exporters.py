"""What makes an ONNX model of each kind of source: the libraries that it takes, and the files that
a source is made of. Imports none of the libraries."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any

from engineforge.samples import BadSamples, data_files
from engineforge.samples.imports import Packages, is_editable, normal, required
from engineforge.spec.model import PythonFunction
from engineforge.spec.sources import (
    Framework,
    InputAxes,
    MadeSource,
    NetworkSource,
    Preparation,
    PytorchSource,
    SklearnSource,
    Source,
    TensorflowSource,
    UrlSource,
)
from engineforge.stages import packages
from engineforge.stages.packages import Package
from engineforge.stages.sources.locate import SourceMissing, missing_file

EXPORTING = 1
"""Of our own part in exporting: raised when the same source would give other bytes."""

PREPARING = 1
"""The same of preparing a model."""

PYTORCH_OPSET, TENSORFLOW_OPSET = 18, 17
"""The opsets that are exported to where a spec names none: what torch's exporter writes without
converting it afterwards, and the newest that every TensorRT since 8.6 reads."""

DEFINING = 1
"""The same of filling a network definition."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exporter:
    """The `module` in this folder with its `export`, what people call it, its `packages`, the extra
    that installs them, and the opset that it exports to where nothing is asked; None where that
    follows from its packages."""

    module: str
    called: str
    packages: tuple[Package, ...]
    extra: str
    opset: int | None


_ONNX = Package(names=("onnx",), series="1.23")
_EXPORTERS: Mapping[type[Framework], Exporter] = {
    PytorchSource: Exporter(
        module="pytorch.export",
        called="PyTorch",
        packages=(
            # What it writes changes with each minor release.
            Package(names=("torch",), series="2.13"),
            Package(names=("onnxscript",), series="0.7"),
            Package(names=("onnx-ir",), series="1"),
            Package(names=("safetensors",), series=None),
            _ONNX,
        ),
        extra="pytorch",
        opset=PYTORCH_OPSET,
    ),
    TensorflowSource: Exporter(
        module="tensorflow.export",
        called="TensorFlow",
        packages=(
            Package(names=("tensorflow-cpu", "tensorflow"), series="2.21"),
            Package(names=("keras",), series="3.15"),
            Package(names=("tf2onnx",), series="1.17"),
            _ONNX,
        ),
        extra="tensorflow",
        opset=TENSORFLOW_OPSET,
    ),
    SklearnSource: Exporter(
        module="sklearn",
        called="scikit-learn",
        packages=(
            Package(names=("scikit-learn",), series="1.9"),
            Package(names=("skl2onnx",), series="1.20"),
            Package(names=("joblib",), series=None),
            _ONNX,
        ),
        extra="sklearn",
        opset=None,
    ),
}
DEFINING_WITH = ("tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt-rtx", "numpy")
"""What a function that fills a network is given: its version is in the key of the engine."""

_PREPARING = (_ONNX,)
_SIMPLIFYING = (
    Package(names=("onnxslim",), series="0.1"),
    Package(names=("onnxruntime", "onnxruntime-gpu"), series="1.31"),
    _ONNX,
)


def exporter(source: Framework) -> Exporter:
    return _EXPORTERS[type(source)]


def missing(source: Framework) -> str | None:
    """Why this source cannot be exported here, and what to do; None if it can."""
    made = exporter(source)
    return packages.missing(f"exporting from {made.called}", made.packages, made.extra)


def missing_to_prepare(prepare: Preparation) -> str | None:
    """The same of preparing an ONNX model."""
    what = "'simplify'" if prepare.simplify else "preparing a model"
    return packages.missing(what, _preparing(prepare), "prepare")


def versions(source: Framework) -> dict[str, str]:
    """The series of the libraries that shape an export."""
    return packages.series(exporter(source).packages)


def versions_to_prepare(prepare: Preparation) -> dict[str, str]:
    return packages.series(_preparing(prepare))


def installed(source: Source, prepare: Preparation | None) -> dict[str, str]:
    """The exact versions that are here of all that takes part."""
    made = exporter(source).packages if isinstance(source, Framework) else ()
    found = dict(packages.installed(made))
    return found | (dict(packages.installed(_preparing(prepare))) if prepare else {})


def importable(source: PytorchSource | NetworkSource) -> Packages:
    """What the function of a source may import of what is installed."""
    if isinstance(source, NetworkSource):
        return Packages(named=source.packages, own=DEFINING_WITH)
    names = (name for each in exporter(source).packages for name in each.names)
    return Packages(named=source.packages, own=(*names, "numpy"))


def package_versions(source: Source) -> dict[str, str]:
    """The exact versions, as they are here, of the packages that a source names, and of what these
    require beyond what exports anyway. SourceMissing where one is not here."""
    if not isinstance(source, PytorchSource | NetworkSource) or not source.packages:
        return {}
    for name in source.packages:
        try:
            editable = is_editable(name)
        except metadata.PackageNotFoundError as error:
            hint = f"python -m pip install {name}"
            raise SourceMissing(f"the package '{name}' is not installed here", hint=hint) from error
        if editable:
            raise SourceMissing(
                f"the package '{name}' is installed as editable, so that its version does not say "
                "what it is",
                hint="install it without '-e', or put its modules beside the spec, into 'files'",
            )
    named = {normal(each) for each in source.packages}
    own = required(importable(source).own)
    found = required(source.packages)
    return {name: found[name] for name in found if name in named or name not in own}


def _preparing(prepare: Preparation) -> Sequence[Package]:
    return _SIMPLIFYING if prepare.simplify else _PREPARING


def called(source: Source) -> str:
    """What a source is called, for people."""
    match source:
        case PytorchSource(program=program, torchscript=torchscript, module=module):
            return f"PyTorch model '{program or torchscript or module}'"
        case TensorflowSource(saved_model=saved, keras=keras):
            return f"TensorFlow model '{saved or keras}'"
        case SklearnSource(model=name):
            return f"scikit-learn model '{name}'"
        case NetworkSource(function=name):
            return f"network '{name}'"
        case UrlSource(model=file):
            return f"model '{file.name}'"
    return f"model '{Path(source.path).name}'"


def files_of(source: MadeSource, folder: Path) -> list[Path]:
    """Every file that a source is made of, in its order; `folder` is that of the spec. Nothing is
    opened or imported. SourceMissing where one is not there."""
    match source:
        case (
            PytorchSource(program=str(name))
            | PytorchSource(torchscript=str(name))
            | TensorflowSource(keras=str(name))
            | SklearnSource(model=name)
        ):
            return [_file(name, folder)]
        case (
            PytorchSource(module=str(function), weights=weights, files=files)
            | NetworkSource(function=function, weights=weights, files=files)
        ):
            try:
                found = data_files(PythonFunction(function=function, files=files), folder)
            except BadSamples as error:
                raise SourceMissing(error.args[0], hint=error.hint) from error
            return [*found, *([] if weights is None else [_file(weights, folder)])]
        case TensorflowSource(saved_model=str(name)):
            return list(_tree(name, folder))
    raise RuntimeError(f"a source of no file: {source}")


def _file(name: str, folder: Path) -> Path:
    path = folder / name
    if not path.is_file():
        raise missing_file(name, folder)
    return path


def _tree(name: str, folder: Path) -> Iterator[Path]:
    root = folder / name
    if not root.is_dir():
        raise missing_file(name, folder, kind="folder")
    found = [each for each in root.rglob("*") if each.is_file()]
    if not found:
        raise SourceMissing(f"the folder '{name}' is empty")
    yield from sorted(found, key=lambda each: bytes(each.relative_to(root)))


def recipe(source: Framework, folder: Path, files: Sequence[Path]) -> dict[str, object]:
    """How a source is exported, without where its files are: those are in the key by content."""
    match source:
        case PytorchSource():
            how: dict[str, object] = {
                "from": "program" if source.program else "torchscript",
                "inputs": dict(source.inputs),
            }
            if source.module is not None:
                how |= {"from": "module", **of_function(source, files)}
        case TensorflowSource(saved_model=saved):
            how = {"from": "keras" if saved is None else "saved_model"}
            how["signature"] = source.signature
            # What a file of a SavedModel is called says what it is.
            root = folder / (saved or ".")
            how["names"] = [each.relative_to(root).as_posix() for each in files] if saved else []
        case SklearnSource():
            how = {}
    opset = source.opset or exporter(source).opset
    shared = {"outputs": list(source.outputs), "opset": opset, "trust": source.trust}
    return {**how, **shared}


def of_function(source: PytorchSource | NetworkSource, files: Sequence[Path]) -> dict[str, Any]:
    """What of a function keys hold besides its `files`, by content: its name without its module,
    which is among them, and what it is called with."""
    return {
        "function": _function(source).rpartition(":")[2],
        "names": tuple(module_names(source, files)),
        "packages": package_versions(source),
        "arguments": json.dumps(source.arguments, sort_keys=True),  # it may hold floats
        "weights": None if source.weights is None else Path(source.weights).suffix,
    }


def _function(source: PytorchSource | NetworkSource) -> str:
    return source.function if isinstance(source, NetworkSource) else source.module or ""


def module_names(source: PytorchSource | NetworkSource, files: Sequence[Path]) -> list[str]:
    """What the files of a function's module are called, wherever they are: `import` goes by that.
    `files` are those of the source. First the module's own, below the folder that it is imported
    from, then those that the spec lists."""
    first = files[0]
    depth = _function(source).partition(":")[0].count(".") + (first.name == "__init__.py")
    root = first.parents[depth]
    packages = takewhile(
        lambda each: each.name == "__init__.py" and each.parent in first.parents, files[1:]
    )
    own = [each.relative_to(root).as_posix() for each in (first, *packages)]
    return [*own, *(str(PurePosixPath(each)) for each in source.files)]


def export(
    source: Framework,
    *,
    folder: Path,
    files: Sequence[Path],
    inputs: Mapping[str, InputAxes],
    out: Path,
) -> None:
    """Write `out/model.onnx` as the exporter leaves it; SourceFailed where it cannot."""
    module = importlib.import_module(f"{__package__}.{exporter(source).module}")
    module.export(source, folder=folder, files=files, inputs=inputs, out=out)
