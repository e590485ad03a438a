"""Models of scikit-learn as ONNX: what they compute, their bytes, and what is refused."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from engineforge.spec.sources import InputAxes, SklearnSource
from engineforge.stages.sources import SourceFailed
from engineforge.stages.sources.sklearn import export

_INSTALL = "python -m pip install 'engineforge[sklearn,precision]'"
onnxruntime = pytest.importorskip("onnxruntime", reason=_INSTALL)
pytest.importorskip("skl2onnx", reason=_INSTALL)
sklearn: Any = pytest.importorskip("sklearn", reason=_INSTALL)
joblib: Any = pytest.importorskip("joblib", reason=_INSTALL)

Array = np.ndarray[Any, Any]

X = {"x": InputAxes(type="float32", dims=(None, 64), example=(4, 64))}
# What is compared of each: the method whose result is the model's output.
MODELS = {
    "logistic": "predict_proba",
    "binary": "predict_proba",
    "mlp": "predict_proba",
    "pipeline": "predict_proba",
    "ridge": "predict",
    "normalized": "predict",
    "scaler": "transform",
}


def _digits() -> tuple[Array, Array]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return x.astype(np.float32), y


def _models() -> dict[str, Any]:
    from sklearn.decomposition import PCA
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import Normalizer, StandardScaler
    from sklearn.svm import SVC

    def network() -> Any:  # noqa: ANN401
        return MLPClassifier((16,), max_iter=5, random_state=0)

    return {
        "logistic": LogisticRegression(max_iter=10),
        "binary": LogisticRegression(max_iter=10),
        "mlp": network(),
        "pipeline": make_pipeline(StandardScaler(), PCA(16, random_state=0), network()),
        "ridge": Ridge(),
        "normalized": make_pipeline(Normalizer(), Ridge()),
        "scaler": StandardScaler(),
        "forest": RandomForestClassifier(3, random_state=0),
        "vectors": SVC(),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sklearn")
    x, y = _digits()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # five iterations do not converge
        for name, model in _models().items():
            fitted = model.fit(x[:400], (y > 4)[:400] if name == "binary" else y[:400])
            joblib.dump(fitted, root / f"{name}.joblib")
    (root / "plain.pkl").write_bytes(pickle.dumps(joblib.load(root / "logistic.joblib")))
    joblib.dump(_models()["ridge"], root / "unfitted.joblib")
    joblib.dump({"weights": x}, root / "mapping.joblib")
    (root / "short.joblib").write_bytes((root / "mlp.joblib").read_bytes()[:300])
    (root / "pointer.joblib").write_text("version https://git-lfs.github.com/spec/v1\noid …")
    (root / "model.txt").write_text("no pickle")
    return root


def _export(
    source: SklearnSource, folder: Path, out: Path, inputs: Mapping[str, InputAxes] = X
) -> onnx.ModelProto:
    out.mkdir(exist_ok=True)
    export(source, folder=folder, files=[], inputs=inputs, out=out)
    model = onnx.load(out / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    return model


def _run(model: onnx.ModelProto, x: Array) -> list[Array]:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return list(session.run(None, {"x": x}))


@pytest.mark.parametrize("name", MODELS)
def test_a_model_computes_the_same_on_real_inputs_with_any_batch(
    name: str, folder: Path, tmp_path: Path
) -> None:
    model = _export(SklearnSource(model=f"{name}.joblib", trust=True), folder, tmp_path)
    assert {node.domain for node in model.graph.node} == {""}
    fitted = joblib.load(folder / f"{name}.joblib")
    for batch in (1, 50):
        x = _digits()[0][-batch:]
        (found,) = _run(model, x)
        expected = getattr(fitted, MODELS[name])(x)
        if expected.ndim == 1:
            expected = expected[:, None]
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_a_plain_pickle_is_read_like_one_of_joblib(folder: Path, tmp_path: Path) -> None:
    plain = _export(SklearnSource(model="plain.pkl", trust=True), folder, tmp_path)
    assert plain == _export(SklearnSource(model="logistic.joblib", trust=True), folder, tmp_path)


def test_outputs_and_opset_are_those_asked_for(folder: Path, tmp_path: Path) -> None:
    source = SklearnSource(model="mlp.joblib", trust=True, outputs=("scores",), opset=15)
    model = _export(source, folder, tmp_path)
    assert [each.name for each in model.graph.output] == ["scores"]
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 15)]


class _Malicious:
    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.touched),)


def test_a_pickle_without_trust_is_refused_before_any_of_it_runs(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps(_Malicious(touched)))
    with pytest.raises(SourceFailed, match=r"^'bad.pkl' is a pickle: .*\nhint: .*trust: true$"):
        _export(SklearnSource(model="bad.pkl"), tmp_path, tmp_path / "out")
    assert not touched.exists()
    # It is the trust that kept it from running.
    with pytest.raises(SourceFailed, match=r"'bad\.pkl' holds a NoneType"):
        _export(SklearnSource(model="bad.pkl", trust=True), tmp_path, tmp_path / "out")
    assert touched.exists()


def test_a_trusted_pickle_is_run_loudly(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _export(SklearnSource(model="ridge.joblib", trust=True), folder, tmp_path)
    assert any("'ridge.joblib' is trusted" in each for each in caplog.messages)


def test_what_another_version_saved_is_refused(folder: Path, tmp_path: Path) -> None:
    data = (folder / "plain.pkl").read_bytes()
    version = sklearn.__version__.encode()
    assert version in data
    (tmp_path / "old.pkl").write_bytes(data.replace(version, b"0" * len(version)))
    with pytest.raises(SourceFailed, match=r"'old\.pkl' was saved by scikit-learn 00"):
        _export(SklearnSource(model="old.pkl", trust=True), tmp_path, tmp_path / "out")


def _wide(*dims: int | None) -> dict[str, InputAxes]:
    return {"x": InputAxes(type="float32", dims=dims, example=tuple(each or 2 for each in dims))}


@pytest.mark.parametrize(
    ("source", "inputs", "message"),
    [
        ({"model": "forest.joblib"}, X, "TensorRT does not have: 'TreeEnsembleClassifier'\nhint"),
        ({"model": "vectors.joblib"}, X, "TensorRT does not have: .*'SVMClassifier'"),
        ({"model": "unfitted.joblib"}, X, "is not fitted"),
        ({"model": "mapping.joblib"}, X, "holds a dict\nhint: expected an estimator"),
        ({"model": "short.joblib"}, X, "cannot be loaded: "),
        ({"model": "pointer.joblib"}, X, "is a Git LFS pointer"),
        ({"model": "model.txt"}, X, "expected a file that ends in .joblib, .pkl, .pickle"),
        ({"model": "mlp.joblib", "opset": 99}, X, "not 99\nhint: .*prepare"),
        ({"model": "mlp.joblib", "outputs": ("a", "b")}, X, "has 1 output, and 'outputs' names 2"),
        ({"model": "mlp.joblib"}, _wide(None, 32), r"is \[\*, 32\] in the spec, and \[\*, 64\]"),
        ({"model": "mlp.joblib"}, _wide(None, 8, 8), r"is \[\*, 8, 8\] in the spec"),
        (
            {"model": "mlp.joblib"},
            {"x": InputAxes(type="bfloat16", dims=(None, 64), example=(2, 64))},
            "takes no 'bfloat16'",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_exported_is_told_with_what_to_do(
    source: dict[str, Any],
    inputs: Mapping[str, InputAxes],
    message: str,
    folder: Path,
    tmp_path: Path,
) -> None:
    with pytest.raises(SourceFailed, match=message):
        _export(SklearnSource(**source, trust=True), folder, tmp_path, inputs)
    assert not (tmp_path / "model.onnx").exists()


_PROGRAM = """
import sys
from pathlib import Path
from engineforge.spec.sources import SklearnSource
from engineforge.stages.sources import sklearn
from tests.stages.sources import test_sklearn as tests

folder, out = map(Path, sys.argv[1:])
for name in tests.MODELS:
    (out / name).mkdir(parents=True)
    source = SklearnSource(model=name + ".joblib", trust=True)
    sklearn.export(source, folder=folder, files=[], inputs=tests.X, out=out / name)
"""


@pytest.mark.slow
def test_two_processes_and_two_places_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "another" / "place"
    moved.mkdir(parents=True)
    for name in MODELS:
        (moved / f"{name}.joblib").write_bytes((folder / f"{name}.joblib").read_bytes())
    made = []
    for seed, place in (("1", folder), ("2", moved)):
        out = tmp_path / seed
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        arguments = [sys.executable, "-c", _PROGRAM, str(place), str(out)]
        subprocess.run(arguments, check=True, env=environment, capture_output=True)
        made.append({path.parent.name: path.read_bytes() for path in out.glob("*/model.onnx")})
    assert len(made[0]) == len(MODELS)
    assert made[0] == made[1]
