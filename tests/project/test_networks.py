"""Specs whose model is a network definition that a function fills."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engineforge.digest import document
from engineforge.spec.sources import NetworkSource, write_source
from engineforge.worker import making
from tests.backends.test_options import target
from tests.conftest import Forge

_LENET = """\
from widths import WIDTH


def build(network, trt, weights, scale=1):
    x = network.add_input("image", trt.float32, (-1, 1, 28, 28))
    conv = network.add_convolution_nd(x, WIDTH, (3, 3), scale * weights["w"], weights["b"])
    out = network.add_activation(conv.get_output(0), trt.ActivationType.RELU).get_output(0)
    out.name = "features"
    network.mark_output(out)
"""
_SPEC = """\
model:
  source: {network: {function: 'lenet:build', weights: lenet.npz, files: [widths.py]}}
inputs:
  image: {min: [1, 1, 28, 28], opt: [8, 1, 28, 28], max: [32, 1, 28, 28]}
targets: [ada]
variants:
  fp32: {precision: source}
"""
_BUILT = {"fp32@ada": "built"}


def weigh(forge: Forge, value: float) -> None:
    arrays = {"w": np.full((8, 1, 3, 3), value, np.float32), "b": np.zeros(8, np.float32)}
    np.savez(forge.specs / "lenet.npz", **arrays)  # type: ignore[arg-type]


@pytest.fixture
def network(forge: Forge) -> Forge:
    """A project whose one model is a network definition."""
    forge.model.unlink()
    forge.spec("net", _SPEC)
    (forge.specs / "lenet.py").write_text(_LENET)
    (forge.specs / "widths.py").write_text("WIDTH = 8\n")
    weigh(forge, 0.5)
    return forge


def test_it_becomes_an_engine_and_then_is_up_to_date(network: Forge) -> None:
    assert network.build().outcomes() == _BUILT
    second = network.build()
    assert second.outcomes() == {"fp32@ada": "reused"}
    assert second.json["effort"] == {"files_hashed": 0, "bytes_hashed": 0, "specs_parsed": 0}


def test_it_is_up_to_date_too_where_nothing_is_remembered(network: Forge) -> None:
    network.build()
    (network.cache / "index").unlink()
    assert network.build().outcomes() == {"fp32@ada": "reused"}


@pytest.mark.parametrize("what", ["lenet.py", "widths.py", "lenet.npz"])
def test_each_of_its_files_is_in_the_key_and_named(network: Forge, what: str) -> None:
    network.build()
    if what == "lenet.npz":
        weigh(network, 0.25)
    else:
        path = network.specs / what
        path.write_text(path.read_text() + "\n# changed\n")
    assert network.changes() == {"fp32@ada": [f"'{what}'"]}
    assert network.build().outcomes() == _BUILT


def test_there_is_nothing_to_prepare_of_it(network: Forge) -> None:
    result = network.build("--prepare")
    assert (result.code, result.outcomes()) == (0, {"fp32@ada": "skipped"})


def test_its_arguments_are_in_the_key(network: Forge) -> None:
    network.build()
    network.edit("net", "files:", "arguments: {scale: 0.1}, files:")
    assert network.build().outcomes() == _BUILT
    assert len(network.engines()) == 2


def test_a_module_that_is_not_listed_fails_the_build(network: Forge) -> None:
    network.edit("net", ", files: [widths.py]", "")
    (variant,) = network.build().json["variants"]
    assert variant["outcome"] == "failed"
    assert "imports 'widths.py', and a change of that would go unseen" in variant["error"]
    assert network.engines() == []


def test_what_it_raises_is_told_with_its_line(network: Forge) -> None:
    (network.specs / "lenet.py").write_text(_LENET.replace('weights["b"]', 'weights["bias"]'))
    (variant,) = network.build().json["variants"]
    assert "lenet.py:6: 'lenet.npz' has no array 'bias'" in variant["error"]


def test_a_bug_of_the_build_is_not_put_down_to_it(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("def build(network, trt, weights): pass\n")
    request = {
        "model": tmp_path / "none.onnx",
        "profiles": [{"x": {"shape": {"no such bound": [1]}}}],
        "builder": {},
        "target": document(target("tensorrt_rtx", "1.7.1.116")),
        "engine": tmp_path / "model.engine",
        "gpu": None,
        "network": {
            "source": write_source(NetworkSource(function="net:build")),
            "folder": tmp_path,
            "files": [],
            "inputs": {},
        },
    }
    with pytest.raises(TypeError, match="no such bound"):
        making.build(request)


def test_weights_that_are_set_on_a_layer_are_those_of_the_engine(network: Forge) -> None:
    later = """
    conv.kernel = np.full((WIDTH, 1, 3, 3), 3.5, np.float32) * 2
    del conv
    others = [np.full((WIDTH, 1, 3, 3), -99, np.float32) for _ in range(100)]
"""
    (network.specs / "lenet.py").write_text(f"import numpy as np\n{_LENET}{later}")
    assert network.build().outcomes() == _BUILT
    (engine,) = network.engines()
    plan = engine.read_bytes()
    assert np.float32(7).tobytes() * 9 in plan
    assert np.float32(-99).tobytes() * 9 not in plan


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("precision: source", "precision: fp16", "converts an ONNX model"),
        (
            "variants:",
            "checks: {accuracy: {data: x.npz, min_top1: 0.9}}\nvariants:",
            "accuracy is compared with an ONNX model",
        ),
    ],
    ids=["a lower precision", "an accuracy check"],
)
def test_what_takes_an_onnx_model_is_refused(network: Forge, old: str, new: str, said: str) -> None:
    network.edit("net", old, new)
    result = network.run("check", "specs")
    assert result.code == 2
    assert said in result.err
