"""A model beyond protobuf's two gigabytes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

pytest.importorskip("onnxruntime", reason="needs: python -m pip install 'engineforge[precision]'")
from tests.stages.precision.nets import floats, graph, node, noise, run, saved

_WIDTH, _LAYERS = 8192, 8
_CONVERT = """
import json, sys
from pathlib import Path
from tests.stages.precision.nets import convert
before = Path(sys.argv[1])
typed = convert(before, "fp16", sparsity="2:4")
status = Path("/proc/self/status").read_text().splitlines()
peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
print(json.dumps({"out": str(typed.folder), "peak": peak * 1024}))
"""


def _large(path: Path) -> Path:
    """Products whose weights, 2 GiB and thus a byte too many, are in a file beside the model."""
    body, tensors, at = [], [], "x"
    drawn = np.random.default_rng(0).standard_normal((_WIDTH, _WIDTH), np.float32)
    drawn /= np.float32(_WIDTH**0.5)
    with (path.parent / "w.bin").open("wb") as file:
        for i in range(_LAYERS):
            weight = np.roll(drawn, i, axis=1)  # to draw each takes longer than all else here
            entries = {
                "location": "w.bin",
                "offset": str(file.tell()),
                "length": str(weight.nbytes),
            }
            file.write(weight.tobytes())
            tensor = TensorProto(name=f"w{i}", data_type=TensorProto.FLOAT, dims=weight.shape)
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in entries.items():
                tensor.external_data.add(key=key, value=value)
            tensors.append(tensor)
            body.append(node(f"y{i} = MatMul {at} w{i}", f"layer{i}"))
            at = f"y{i}"
    made = graph(body, [floats("x", 1, _WIDTH)], [floats(at, 1, _WIDTH)], tensors)
    return saved(made, path)


@pytest.mark.slow
def test_more_than_two_gigabytes_are_pruned_and_cast_a_tensor_at_a_time(tmp_path: Path) -> None:
    path = _large(tmp_path / "m.onnx")
    done = subprocess.run(
        [sys.executable, "-c", _CONVERT, str(path)], capture_output=True, text=True, check=True
    )
    said = json.loads(done.stdout)
    folder = Path(said["out"])
    assert sorted(each.name for each in folder.iterdir()) == [
        "model.onnx",
        "model.onnx.data",
        "sparsity.json",
    ]
    half = _LAYERS * _WIDTH * _WIDTH * 2
    assert half <= (folder / "model.onnx.data").stat().st_size < half + _LAYERS * 4096
    assert (folder / "model.onnx").stat().st_size < 10_000
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    weight = onnx.numpy_helper.to_array(model.graph.initializer[0], str(folder))
    assert (np.count_nonzero(weight.T.reshape(-1, 4), 1) == 2).all()
    del model, weight
    (feed, *_) = noise(1, _WIDTH, count=1)
    assert np.isfinite(run(folder / "model.onnx", feed)[0]).all()
    assert said["peak"] < 1.5e9
