"""Estimators and pipelines of scikit-learn to ONNX, those that are made of plain operators: linear
models, neural networks, and what scales and projects before them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engineforge.spec.sources import InputAxes, SklearnSource
from engineforge.stages.sources import SourceFailed, beginning, warn_of_code

OPSET = 17
"""Where a spec names none: the newest that every TensorRT since 8.6 reads."""

_JOBLIB, _PICKLE = (".joblib",), (".pkl", ".pickle")
# Operators of ai.onnx.ml that skl2onnx writes with plain ones instead, if told not to use them.
_WITHOUT = frozenset({"LinearClassifier", "LinearRegressor", "Normalizer", "Scaler"})
_LABELS = ("label", "output_label")


def export(
    source: SklearnSource,
    *,
    folder: Path,
    files: Sequence[Path],
    inputs: Mapping[str, InputAxes],
    out: Path,
) -> None:
    """Write `out/model.onnx`; SourceFailed where it cannot be made, or `source` is not trusted.

    Of a classifier the outputs are its probabilities alone: labels are text or are looked up in a
    table, and TensorRT has neither.
    """
    called = source.model
    if not source.trust:
        message = f"'{called}' is a pickle: loading it runs what code is in it"
        raise SourceFailed(message, hint="if it comes from people you trust: trust: true")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = _loaded(folder / called, called)
        made = _converted(model, source, inputs)
    _choose_outputs(made, model, source)
    _check_operators(made, called)
    made = _raised(made, source.opset)
    (out / "model.onnx").write_bytes(made.SerializeToString(deterministic=True))


def _loaded(path: Path, called: str) -> Any:  # noqa: ANN401
    import joblib
    from sklearn.base import BaseEstimator
    from sklearn.exceptions import InconsistentVersionWarning

    if path.suffix not in (*_JOBLIB, *_PICKLE):
        expected = ", ".join((*_JOBLIB, *_PICKLE))
        raise SourceFailed(f"'{called}': expected a file that ends in {expected}")
    beginning(path, called)
    warn_of_code(called)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", InconsistentVersionWarning)
            model = joblib.load(path)  # reads plain pickles as well
    except InconsistentVersionWarning as error:
        raise SourceFailed(
            f"'{called}' was saved by scikit-learn {error.original_sklearn_version}, and this is "
            f"{error.current_sklearn_version}, which may compute something else",
            hint=f"fit and save it with {error.current_sklearn_version}",
        ) from error
    except ModuleNotFoundError as error:
        message = f"'{called}' cannot be loaded: it needs the module '{error.name}'"
        raise SourceFailed(message, hint=f"install '{error.name}'") from error
    except Exception as error:  # what damaged pickles raise has no end
        raise SourceFailed(f"'{called}' cannot be loaded: {_said(error)}") from error
    if not isinstance(model, BaseEstimator):
        message = f"'{called}' holds a {type(model).__name__}"
        raise SourceFailed(message, hint="expected an estimator or a pipeline of scikit-learn")
    return model


def _converted(model: Any, source: SklearnSource, inputs: Mapping[str, InputAxes]) -> Any:  # noqa: ANN401
    import skl2onnx
    from skl2onnx.common.exceptions import MissingConverter, MissingShapeCalculator
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    opset = source.opset or OPSET
    if opset > (newest := skl2onnx.__max_supported_opset__):
        message = f"'{source.model}': skl2onnx writes opsets up to {newest}, not {opset}"
        raise SourceFailed(message, hint=f"raise it afterwards: prepare: {{opset: {opset}}}")
    try:
        check_is_fitted(model)
    except NotFittedError as error:
        message = f"'{source.model}' is not fitted"
        raise SourceFailed(message, hint="call its 'fit' before it is saved") from error
    _check_features(model, inputs, source.model)
    try:
        return skl2onnx.convert_sklearn(
            model,
            # In every export the same name: it is a random one otherwise.
            name="sklearn",
            initial_types=[(name, _type(name, axes)) for name, axes in inputs.items()],
            # Of ai.onnx.ml the newest that there was with any of these opsets.
            target_opset={"": opset, "ai.onnx.ml": 3},
            options={"zipmap": False} if hasattr(model, "predict_proba") else None,
            black_op=set(_WITHOUT),
        )
    except (MissingConverter, MissingShapeCalculator) as error:
        message = f"'{source.model}' has a step that skl2onnx has no form in ONNX for"
        raise SourceFailed(f"{message}: {_said(error)}") from error
    except Exception as error:  # what converters raise has no end
        operators = sorted(each for each in _WITHOUT if f"'{each}'" in str(error))
        if operators:
            raise _no_form(source.model, operators) from error
        raise SourceFailed(f"'{source.model}' failed: {_said(error)}") from error


def _check_features(model: Any, inputs: Mapping[str, InputAxes], called: str) -> None:  # noqa: ANN401
    """skl2onnx believes what it is told: a model of another width would fail when it runs."""
    expected = getattr(model, "n_features_in_", None)
    if expected is None or len(inputs) != 1:
        return
    (name, axes), *_ = inputs.items()
    if axes.dims[1:] != (expected,):
        found = ", ".join("*" if each is None else str(each) for each in axes.dims)
        message = f"input '{name}' is [{found}] in the spec, and [*, {expected}] in '{called}'"
        raise SourceFailed(message, hint="axis 0 is samples, axis 1 features")


def _type(name: str, axes: InputAxes) -> Any:  # noqa: ANN401
    from skl2onnx.common import data_types

    types = {
        "float32": data_types.FloatTensorType,
        "float64": data_types.DoubleTensorType,
        "int32": data_types.Int32TensorType,
        "int64": data_types.Int64TensorType,
    }
    if axes.type not in types:
        raise SourceFailed(
            f"input '{name}': skl2onnx takes no '{axes.type}'", hint=f"one of {', '.join(types)}"
        )
    return types[axes.type](list(axes.dims))


def _choose_outputs(made: Any, model: Any, source: SklearnSource) -> None:  # noqa: ANN401
    """Drop the labels of a classifier, and what only they are made of; name what is left."""
    from onnx.utils import Extractor
    from sklearn.base import is_classifier

    names = [each.name for each in made.graph.output]
    if is_classifier(model):
        names = [each for each in names if each not in _LABELS]
        if not names:
            message = f"'{source.model}' gives labels and no probabilities"
            raise SourceFailed(message, hint="a classifier with predict_proba")
        inputs = [each.name for each in made.graph.input]
        made.CopyFrom(Extractor(made).extract_model(inputs, names))
    if not source.outputs:
        return
    if len(source.outputs) != len(names):
        count = "1 output" if len(names) == 1 else f"{len(names)} outputs"
        message = f"'{source.model}' has {count}, and 'outputs' names {len(source.outputs)}"
        theirs = ", ".join(f"'{each}'" for each in names)
        raise SourceFailed(message, hint=f"'outputs' gives other names to {theirs}, in this order")
    renamed = dict(zip(names, source.outputs, strict=True))
    taken = {name for node in made.graph.node for name in (*node.input, *node.output)}
    if clash := sorted((set(source.outputs) & taken) - set(names)):
        raise SourceFailed(f"'{source.model}' has a tensor '{clash[0]}' already")
    for node in made.graph.node:
        for values in (node.input, node.output):
            for index, name in enumerate(values):
                values[index] = renamed.get(name, name)
    for each in made.graph.output:
        each.name = renamed[each.name]


def _check_operators(made: Any, called: str) -> None:  # noqa: ANN401
    left = sorted({node.op_type for node in made.graph.node if node.domain})
    if left:
        raise _no_form(called, left)
    for each in [each for each in made.opset_import if each.domain]:
        made.opset_import.remove(each)


def _raised(made: Any, opset: int | None) -> Any:  # noqa: ANN401
    """skl2onnx takes the lowest opset that has all operators, up to the one that it is given."""
    from onnx import version_converter

    if opset is None or made.opset_import[0].version == opset:
        return made
    return version_converter.convert_version(made, opset)


def _no_form(called: str, operators: Sequence[str]) -> SourceFailed:
    names = ", ".join(f"'{each}'" for each in operators)
    return SourceFailed(
        f"'{called}' needs operators of ai.onnx.ml, which TensorRT does not have: {names}",
        hint="linear models and neural networks can be built, and what scales or projects before "
        "them; no trees, support vectors or neighbours",
    )


def _said(error: BaseException) -> str:
    lines = [each.strip() for each in str(error).splitlines()]
    return f"{type(error).__name__}: {next(filter(None, lines), '')}".rstrip(": ")
