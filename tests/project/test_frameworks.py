"""The convolutional network of every tutorial, and a small transformer, from each framework to an
engine: all of its outputs are those of the framework."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import Forge

INSTALL = "python -m pip install 'engineforge[{}]'"
_CONVNET = """\
model:
  source: SOURCE
inputs:
  image: {min: [1, DIMS], opt: [4, DIMS], max: [8, DIMS]}
targets: [ada]
variants:
  fp32: {precision: fp32}
  fp16: {precision: fp16}
"""
_BUILT = {"fp32@ada": "built", "fp16@ada": "built"}


def outputs(forge: Forge, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    """What ONNX Runtime makes of the model that the one spec was planned with."""
    import onnxruntime

    (made,) = forge.cache.glob("entries-v1/source/*/*/model.onnx")
    session = onnxruntime.InferenceSession(made, providers=["CPUExecutionProvider"])
    return list(session.run(None, inputs))


def agree(found: np.ndarray, expected: np.ndarray) -> None:
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert error <= 1e-4


# What PyTorch and Keras say of their own ways to save a model.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.slow
@pytest.mark.parametrize("way", ["program", "module", "torchscript"])
def test_pytorch_three_ways(forge: Forge, way: str) -> None:
    torch = pytest.importorskip("torch", reason=INSTALL.format("pytorch"))
    pytest.importorskip("onnxscript", reason=INSTALL.format("pytorch"))
    from safetensors.torch import save_file

    forge.model.unlink()
    (forge.specs / "nets.py").write_text(
        "from torch import nn\n\n\ndef make():\n"
        "    return nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),\n"
        "                         nn.Linear(32 * 15 * 15, 128), nn.ReLU(), nn.Linear(128, 10))\n"
    )
    scope: dict[str, Any] = {}
    exec((forge.specs / "nets.py").read_text(), scope)  # noqa: S102 - written above
    torch.manual_seed(1)
    model = scope["make"]().eval()
    example = torch.randn(4, 3, 32, 32)
    if way == "program":
        axes = ({0: torch.export.Dim("batch", min=1, max=64)},)
        torch.export.save(
            torch.export.export(model, (example,), dynamic_shapes=axes), forge.specs / "net.pt2"
        )
        source = "{program: net.pt2}"
    elif way == "module":
        save_file(model.state_dict(), forge.specs / "net.safetensors")
        source = "{module: 'nets:make', weights: net.safetensors}"
    else:
        torch.jit.trace(model, example).save(str(forge.specs / "net.pt"))
        source = "{torchscript: net.pt}"
    text = _CONVNET.replace("SOURCE", f"{{pytorch: {source}}}").replace("DIMS", "3, 32, 32")
    forge.spec("net", text)
    result = forge.build()
    assert result.outcomes() == _BUILT, result.err
    for batch in (1, 5, 8):
        images = torch.randn(batch, 3, 32, 32)
        (found,) = outputs(forge, {"image": images.numpy()})
        agree(found, model(images).detach().numpy())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.slow
@pytest.mark.parametrize("way", ["keras", "saved_model"])
def test_keras(forge: Forge, way: str) -> None:
    keras = pytest.importorskip("keras", reason=INSTALL.format("tensorflow"))
    forge.model.unlink()
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3), name="image"),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(10),
        ]
    )
    images = np.random.default_rng(0).standard_normal((8, 32, 32, 3), dtype=np.float32)
    if way == "keras":
        model.save(forge.specs / "net.keras")
        source = "{keras: net.keras}"
    else:
        model.export(forge.specs / "net", verbose=False)
        source = "{saved_model: net}"
    text = _CONVNET.replace("SOURCE", f"{{tensorflow: {source}}}").replace("DIMS", "32, 32, 3")
    forge.spec("net", text)
    result = forge.build("--cache", "cache")
    assert result.outcomes() == _BUILT, result.err
    for batch in (1, 5, 8):
        (found,) = outputs(forge, {"image": images[:batch]})
        agree(found, np.asarray(model(images[:batch])))


_TRANSFORMER = """\
model:
  source: SOURCE
inputs:
  ids: {min: [1, 8], opt: [4, 16], max: [8, 32]}
  mask: {min: [1, 8], opt: [4, 16], max: [8, 32]}
targets: [ada]
variants:
  fp32: {precision: fp32}
  fp16: {precision: fp16}
"""


def sentences(batch: int, length: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(batch)
    ids = random.integers(0, 50, (batch, length))
    seen = np.arange(length)[None] < random.integers(2, length, (batch, 1))
    return {"ids": ids, "mask": seen.astype(np.float32)}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.slow
@pytest.mark.parametrize("way", ["program", "module", "torchscript"])
def test_a_transformer_of_pytorch_three_ways(forge: Forge, way: str) -> None:
    torch = pytest.importorskip("torch", reason=INSTALL.format("pytorch"))
    pytest.importorskip("onnxscript", reason=INSTALL.format("pytorch"))
    from safetensors.torch import save_file

    from tests.stages.sources.torch_nets import TRANSFORMER

    forge.model.unlink()
    (forge.specs / "nets.py").write_text(TRANSFORMER)
    scope: dict[str, Any] = {}
    exec(TRANSFORMER, scope)  # noqa: S102 - a network of these tests
    torch.manual_seed(1)
    model = scope["make"]().eval()
    example = {name: torch.tensor(value) for name, value in sentences(4, 16).items()}
    if way == "program":
        free = {0: torch.export.Dim("batch", max=64), 1: torch.export.Dim("length", max=64)}
        axes = dict.fromkeys(example, free)
        made = torch.export.export(model, (), kwargs=example, dynamic_shapes=axes)
        torch.export.save(made, forge.specs / "net.pt2")
        source = "{program: net.pt2, inputs: {ids: int64}}"
    elif way == "module":
        save_file(model.state_dict(), forge.specs / "net.safetensors")
        source = "{module: 'nets:make', weights: net.safetensors, inputs: {ids: int64}}"
    else:
        torch.jit.trace(model, tuple(example.values())).save(str(forge.specs / "net.pt"))
        source = "{torchscript: net.pt, inputs: {ids: int64}}"
    forge.spec("net", _TRANSFORMER.replace("SOURCE", f"{{pytorch: {source}}}"))
    result = forge.build()
    assert result.outcomes() == _BUILT, result.err
    for batch, length in ((1, 8), (5, 16), (8, 31)):
        given = sentences(batch, length)
        (found,) = outputs(forge, given)
        agree(found, model(*map(torch.tensor, given.values())).detach().numpy())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.slow
def test_a_transformer_of_keras(forge: Forge) -> None:
    pytest.importorskip("keras", reason=INSTALL.format("tensorflow"))
    from tests.stages.sources.test_tensorflow import transformer

    forge.model.unlink()
    model = transformer()
    model.save(forge.specs / "net.keras")
    text = _TRANSFORMER.replace("SOURCE", "{tensorflow: {keras: net.keras}}")
    # Keras masks with -2.4e38, which FP16 does not have: the build says so, and what helps.
    forge.spec("net", text.replace("precision: fp16", "precision: fp16, keep_fp32: ['*/SelectV2']"))
    result = forge.build()
    assert result.outcomes() == _BUILT, result.err
    for batch, length in ((1, 8), (5, 16), (8, 31)):
        given = sentences(batch, length)
        given["ids"] = given["ids"].astype(np.int32)
        for found, expected in zip(outputs(forge, given), model(given), strict=True):
            agree(found, np.asarray(expected))


@pytest.mark.slow
def test_scikit_learn(forge: Forge) -> None:
    joblib = pytest.importorskip("joblib", reason=INSTALL.format("sklearn"))
    pytest.importorskip("skl2onnx", reason=INSTALL.format("sklearn"))
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    random = np.random.default_rng(0)
    samples = random.standard_normal((200, 16), dtype=np.float32)
    labels = (samples.sum(1) > 0).astype(int)
    model = make_pipeline(
        StandardScaler(), MLPClassifier((32,), solver="lbfgs", max_iter=2000, random_state=0)
    )
    model.fit(samples, labels)
    forge.model.unlink()
    joblib.dump(model, forge.specs / "net.joblib")
    text = _CONVNET.replace("SOURCE", "{sklearn: {model: net.joblib, trust: true}}")
    forge.spec("net", text.replace("DIMS", "16").replace("  fp16: {precision: fp16}\n", ""))
    result = forge.build()
    assert result.outcomes() == {"fp32@ada": "built"}, result.err
    (found,) = outputs(forge, {"image": samples[:5]})
    agree(found, model.predict_proba(samples[:5]))


def test_a_machine_takes_what_another_has_exported(
    forge: Forge, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pytest.importorskip("torch", reason=INSTALL.format("pytorch"))
    pytest.importorskip("obstore", reason=INSTALL.format("remote"))
    shared: Path = tmp_path_factory.mktemp("shared")
    forge.model.unlink()
    (forge.specs / "nets.py").write_text(
        "import torch\n\n\ndef make():\n    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())\n"
    )
    text = _CONVNET.replace("SOURCE", "{pytorch: {module: 'nets:make'}}")
    forge.spec("net", text.replace("DIMS", "3, 16, 16"))
    first = forge.build("--remote", str(shared), "--push", "always")
    assert first.outcomes() == _BUILT, first.err
    other = forge.build("--cache", "other", "--remote", str(shared))
    assert other.outcomes() == {"fp32@ada": "reused", "fp16@ada": "reused"}, other.err
    assert "fetching" in other.err
    assert "exporting" not in other.err
    here, there = (
        next((forge.root / cache).glob("entries-v1/source/*/*/manifest.json")).read_bytes()
        for cache in ("cache", "other")
    )
    assert here == there
