"""PyTorch models to ONNX: three ways, the same outputs, the same bytes, and what is refused."""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import os
import pickle
import random
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engineforge.errors import EngineForgeError
from engineforge.spec.sources import InputAxes, PytorchSource
from engineforge.stages.sources import SourceFailed, onnx
from engineforge.stages.sources.exporters import files_of
from engineforge.stages.sources.pytorch.export import export
from tests.samples.packages import install
from tests.stages.sources.torch_nets import CONVNET, TRANSFORMER, Net, made, write

torch = pytest.importorskip("torch", reason="python -m pip install 'engineforge[pytorch]'")
pytest.importorskip("onnxscript", reason="python -m pip install 'engineforge[pytorch]'")
save_file = pytest.importorskip(
    "safetensors.torch", reason="python -m pip install 'engineforge[pytorch]'"
).save_file

Dim = Any
Json = Any
Value = Any

IMAGE = {
    "image": InputAxes(type="float32", dims=(None, 3, 32, 32), example=(4, 3, 32, 32), batch=True)
}
TEXT = {
    "ids": InputAxes(type="int64", dims=(None, None), example=(4, 16), batch=True),
    "mask": InputAxes(type="float32", dims=(None, None), example=(4, 16), batch=True),
}
NETS: Mapping[str, tuple[str, dict[str, InputAxes]]] = {
    "convnet": (CONVNET, IMAGE),
    "transformer": (TRANSFORMER, TEXT),
}


def x(
    *dims: int | None, example: Sequence[int] | None = None, kind: str = "float32"
) -> dict[str, InputAxes]:
    shape = tuple(example or (4 if each is None else each for each in dims))
    return {"x": InputAxes(type=kind, dims=dims, example=shape, batch=dims[0] is None)}


def run(source: PytorchSource, folder: Path, inputs: Mapping[str, InputAxes], out: Path) -> Path:
    out.mkdir()
    export(source, folder=folder, files=files_of(source, folder), inputs=inputs, out=out)
    return out / "model.onnx"


def problem(source: PytorchSource, folder: Path, inputs: Mapping[str, InputAxes]) -> str:
    with pytest.raises(SourceFailed) as caught:
        run(source, folder, inputs, folder / "out")
    return said(caught.value)


def said(error: EngineForgeError) -> str:
    return str(error.args[0]) + (f"\nhint: {error.hint}" if error.hint else "")


def module(folder: Path, text: str, **more: Value) -> PytorchSource:
    write(folder, text)
    return PytorchSource(module="nets:make", **more)


def forward(body: str, parameters: str = "x") -> str:
    lines = "\n        ".join(body.splitlines())
    return (
        "import torch\nclass Net(torch.nn.Module):\n"
        f"    def forward(self, {parameters}):\n        {lines}\n"
        "def make():\n    return Net()\n"
    )


def feeds(inputs: Mapping[str, InputAxes], sizes: Mapping[int, int]) -> dict[str, Any]:
    random = np.random.default_rng(0)
    found = {}
    for name, axes in inputs.items():
        shape = [sizes[i] if size is None else size for i, size in enumerate(axes.dims)]
        values = random.integers(0, 100, shape) if axes.type == "int64" else random.random(shape)
        found[name] = values.astype(axes.type)
    return found


def outputs(model: Path, feed: Mapping[str, Any]) -> list[Any]:
    runtime = pytest.importorskip(
        "onnxruntime", reason="python -m pip install 'engineforge[precision]'"
    )
    session = runtime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(feed)))


def agree(model: Path, net: Net, inputs: Mapping[str, InputAxes], sizes: Mapping[int, int]) -> None:
    feed = feeds(inputs, sizes)
    with torch.no_grad():
        expected = net(*map(torch.from_numpy, feed.values())).numpy()
    (found,) = outputs(model, feed)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def dims(model: Path) -> dict[str, list[str | int]]:
    graph = onnx.read_model(model).graph
    return {
        each.name: [size.dim_param or size.dim_value for size in each.type.tensor_type.shape.dim]
        for each in (*graph.input, *graph.output)
    }


def program_of(
    folder: Path, net: Net, inputs: Mapping[str, InputAxes], *axes: Mapping[int, Dim]
) -> PytorchSource:
    tensors = tuple(torch.zeros(i.example, dtype=getattr(torch, i.type)) for i in inputs.values())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.export.export(net, tensors, dynamic_shapes=axes or None)
        torch.export.save(exported, folder / "model.pt2")
    return PytorchSource(program="model.pt2")


def scripted(folder: Path, net: Net) -> PytorchSource:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(net), folder / "model.pt")
    return PytorchSource(torchscript="model.pt")


def traced(folder: Path, net: Net, *tensors: Net) -> PytorchSource:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(net, tensors), folder / "model.pt")
    return PytorchSource(torchscript="model.pt")


def source_of(way: str, name: str, folder: Path) -> tuple[PytorchSource, Any]:
    """A network with weights of its own, saved in one of the ways."""
    text, inputs = NETS[name]
    net = made(text, seed=7)
    free = torch.export.Dim.DYNAMIC
    if way == "program":
        axes = [{i: free for i, n in enumerate(each.dims) if n is None} for each in inputs.values()]
        return program_of(folder, net, inputs, *axes), net
    if way == "torchscript":
        tensors = [torch.zeros(i.example, dtype=getattr(torch, i.type)) for i in inputs.values()]
        return traced(folder, net, *tensors), net
    save_file(net.state_dict(), folder / "w.safetensors")
    return module(folder, text, weights="w.safetensors"), net


WAYS = ("module", "program", "torchscript")


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("way", WAYS)
class TestThreeWays:
    def test_give_the_same_outputs_at_every_size(self, way: str, name: str, tmp_path: Path) -> None:
        source, net = source_of(way, name, tmp_path)
        model = run(source, tmp_path, NETS[name][1], tmp_path / "out")
        for batch, length in ((1, 5), (4, 16), (7, 33)):
            agree(model, net, NETS[name][1], {0: batch, 1: length})

    def test_name_the_axes_that_vary(self, way: str, name: str, tmp_path: Path) -> None:
        source, _ = source_of(way, name, tmp_path)
        found = dims(run(source, tmp_path, NETS[name][1], tmp_path / "out"))
        for input_name in NETS[name][1]:
            assert found[input_name][0] == "batch"
            assert isinstance(found[input_name][1], int) == (name == "convnet")

    def test_give_the_same_model_twice(self, way: str, name: str, tmp_path: Path) -> None:
        source, _ = source_of(way, name, tmp_path)
        one, two = (run(source, tmp_path, NETS[name][1], tmp_path / each) for each in "ab")
        assert canonical(one) == canonical(two)


def canonical(model: Path) -> bytes:
    return onnx.canonicalize(model, onnx.by_content(model, {}))[0]


_IN_A_PROCESS = """
import sys
from pathlib import Path
from tests.stages.sources import test_pytorch as t
for each in map(Path, sys.argv[1:]):
    way, _, name = each.name.partition("-")
    source = t.source_of(way, name, each)[0]
    made = t.run(source, each, t.NETS[name][1], each / "out")
    (each / "canonical").write_bytes(t.canonical(made))
"""


@pytest.mark.slow
def test_two_processes_in_two_folders_give_the_same_models_in_any_order(tmp_path: Path) -> None:
    names = [f"{way}-{name}" for way in WAYS for name in NETS]
    for folder, order in (("one", names), ("two/deeper", names[::-1])):
        folders = [tmp_path / folder / name for name in order]
        for each in folders:
            each.mkdir(parents=True)
        command = [sys.executable, "-c", _IN_A_PROCESS, *map(str, folders)]
        subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parents[3])
    for name in names:
        one, two = (tmp_path / each / name / "canonical" for each in ("one", "two/deeper"))
        found = one.read_bytes()
        assert found == two.read_bytes(), name
        assert len(found) > 1000
        assert str(tmp_path).encode() not in found


def of_two_inputs(folder: Path, way: str) -> tuple[PytorchSource, InputAxes]:
    """`x - 2 * y`, and what is told of either."""
    text = forward("return x - 2 * y", "x, y")
    axes = InputAxes(type="float32", dims=(None,), example=(4,), batch=True)
    if way == "program":
        free, inputs = torch.export.Dim.DYNAMIC, {"x": axes, "y": axes}
        return program_of(folder, made(text), inputs, {0: free}, {0: free}), axes
    if way == "torchscript":
        return traced(folder, made(text), torch.zeros(4), torch.zeros(4)), axes
    return module(folder, text), axes


class TestModule:
    def test_without_weights_is_the_same_each_time(self, tmp_path: Path) -> None:
        source = module(tmp_path, CONVNET)
        one = run(source, tmp_path, IMAGE, tmp_path / "one")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            two = run(source, tmp_path, IMAGE, tmp_path / "two")
        assert canonical(one) == canonical(two)

    def test_leaves_the_random_state_as_it_was(self, tmp_path: Path) -> None:
        before = torch.random.get_rng_state()
        run(module(tmp_path, CONVNET), tmp_path, IMAGE, tmp_path / "out")
        assert torch.equal(before, torch.random.get_rng_state())

    @pytest.mark.parametrize(
        "numbers",
        ["[random.random() for _ in range(4)]", "np.random.rand(4)", "torch.rand(4)"],
        ids=["random", "NumPy", "PyTorch"],
    )
    @pytest.mark.parametrize("late", [True, False], ids=["called", "imported"])
    def test_is_the_same_each_time_whatever_its_numbers_come_from(
        self, numbers: str, late: bool, tmp_path: Path
    ) -> None:
        text = (
            "import random\nimport numpy as np\n"
            + forward("return x + self.w.to(x.dtype)")
            + f"MADE = {numbers}\n"
            + "def make():\n    net = Net()\n"
            + f"    made = {numbers if late else 'MADE'}\n"
            + "    net.register_buffer('w', torch.as_tensor(made, dtype=torch.float32))\n"
            + "    return net\n"
        )
        source = module(tmp_path, text)
        one = run(source, tmp_path, x(None, 4), tmp_path / "one")
        random.random(), np.random.rand(), torch.rand(1)
        two = run(source, tmp_path, x(None, 4), tmp_path / "two")
        assert canonical(one) == canonical(two)

    def test_leaves_the_random_states_of_python_and_numpy_as_they_were(
        self, tmp_path: Path
    ) -> None:
        before = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
        text = CONVNET + "\nimport random, numpy\nrandom.random(), numpy.random.rand()\n"
        run(module(tmp_path, text), tmp_path, IMAGE, tmp_path / "out")
        assert before == (random.getstate(), np.random.get_state()[1].tolist())  # type: ignore[index]

    def test_imports_no_package_that_is_not_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        install(tmp_path / "site", "blocks-ef", CONVNET)
        monkeypatch.syspath_prepend(tmp_path / "site")
        text = "from blocks_ef import make\n"
        named = module(tmp_path, text, packages=("blocks-ef",))
        said_ = problem(module(tmp_path, text), tmp_path, IMAGE)
        assert said_.endswith("hint: name it under 'pytorch': packages: [blocks-ef]")
        del sys.modules["blocks_ef"]
        run(named, tmp_path, IMAGE, tmp_path / "named")
        del sys.modules["blocks_ef"]

    def test_may_import_what_exports_anyway(self, tmp_path: Path) -> None:
        text = "import onnx, onnxscript, safetensors.torch, numpy, sympy, networkx, jinja2\n"
        run(module(tmp_path, text + CONVNET), tmp_path, IMAGE, tmp_path / "out")

    def test_takes_arguments(self, tmp_path: Path) -> None:
        source = module(tmp_path, CONVNET, arguments={"width": 8})
        model = onnx.read_model(run(source, tmp_path, IMAGE, tmp_path / "out"))
        assert [8, 3, 3, 3] in [list(each.dims) for each in model.graph.initializer]

    @pytest.mark.parametrize("suffix", ["pt", "pth"])
    def test_takes_weights_of_torch_save(self, tmp_path: Path, suffix: str) -> None:
        net = made(CONVNET, seed=7)
        torch.save(net.state_dict(), tmp_path / f"w.{suffix}")
        source = module(tmp_path, CONVNET, weights=f"w.{suffix}")
        agree(run(source, tmp_path, IMAGE, tmp_path / "out"), net, IMAGE, {0: 3})

    def test_imports_listed_files(self, tmp_path: Path) -> None:
        write(tmp_path, CONVNET, "blocks.py")
        source = module(tmp_path, "from blocks import make\n", files=("blocks.py",))
        run(source, tmp_path, IMAGE, tmp_path / "out")
        assert "blocks" not in sys.modules

    def test_imports_no_other_files(self, tmp_path: Path) -> None:
        write(tmp_path, CONVNET, "blocks.py")
        assert problem(module(tmp_path, "from blocks import make\n"), tmp_path, IMAGE) == (
            "'nets:make' imports 'blocks.py', and a change of that would go unseen\n"
            "hint: name it under 'pytorch': files: [blocks.py]"
        )

    @pytest.mark.parametrize("way", ["module", "program", "torchscript"])
    def test_takes_inputs_by_name_in_any_order(self, tmp_path: Path, way: str) -> None:
        source, axes = of_two_inputs(tmp_path, way)
        model = run(source, tmp_path, {"y": axes, "x": axes}, tmp_path / "out")
        one, two = np.ones(3, np.float32), np.full(3, 5, np.float32)
        assert outputs(model, {"x": one, "y": two})[0].tolist() == [-9, -9, -9]

    @pytest.mark.parametrize("way", ["module", "program", "torchscript"])
    def test_never_guesses_which_of_two_inputs_is_which(self, tmp_path: Path, way: str) -> None:
        source, axes = of_two_inputs(tmp_path, way)
        said_ = problem(source, tmp_path, {"y": axes, "image": axes})
        assert "inputs" in said_
        assert "(y, image)" in said_
        assert "(x, y)" in said_

    def test_a_single_input_may_have_another_name(self, tmp_path: Path) -> None:
        axes = InputAxes(type="float32", dims=(None,), example=(4,), batch=True)
        source = module(tmp_path, forward("return x + 1", "x"))
        model = run(source, tmp_path, {"image": axes}, tmp_path / "out")
        assert outputs(model, {"image": np.ones(3, np.float32)})[0].tolist() == [2, 2, 2]

    def test_takes_inputs_by_position_of_any_number(self, tmp_path: Path) -> None:
        text = forward("return first + sum(rest)", "first, *rest")
        axes = InputAxes(type="float32", dims=(None,), example=(4,), batch=True)
        inputs = dict.fromkeys(("a", "b", "c"), axes)
        model = run(module(tmp_path, text), tmp_path, inputs, tmp_path / "out")
        assert outputs(model, dict.fromkeys(inputs, np.ones(3, np.float32)))[0].tolist() == [3] * 3

    def test_is_run_in_evaluation_mode(self, tmp_path: Path) -> None:
        model = run(module(tmp_path, CONVNET), tmp_path, IMAGE, tmp_path / "out")
        assert "Dropout" not in [each.op_type for each in onnx.read_model(model).graph.node]

    def test_has_outputs_of_these_names(self, tmp_path: Path) -> None:
        source = module(tmp_path, CONVNET, outputs=("logits",))
        found = dims(run(source, tmp_path, IMAGE, tmp_path / "out"))
        assert found["logits"] == ["batch", 10]

    @pytest.mark.parametrize("opset", [17, 18, 20])
    def test_has_the_opset_that_was_asked_for(self, tmp_path: Path, opset: int) -> None:
        source = module(tmp_path, CONVNET, opset=opset)
        model = onnx.read_model(run(source, tmp_path, IMAGE, tmp_path / "out"))
        assert [each.version for each in model.opset_import] == [opset]

    def test_with_an_opset_that_it_cannot_be_converted_to_is_told(self, tmp_path: Path) -> None:
        source = module(tmp_path, forward("return torch.nn.functional.mish(x)"), opset=17)
        assert problem(source, tmp_path, x(None, 4)) == (
            "'nets:make': PyTorch exported opset 18, not 17\n"
            "hint: leave out 'opset', and write prepare: {opset: 17} beside 'source'"
        )

    def test_in_float16(self, tmp_path: Path) -> None:
        text = CONVNET.replace("return Net(width)", "return Net(width).half()")
        axes = InputAxes(type="float16", dims=(None, 3, 32, 32), example=(4, 3, 32, 32), batch=True)
        model = run(module(tmp_path, text), tmp_path, {"image": axes}, tmp_path / "out")
        assert onnx.read_model(model).graph.input[0].type.tensor_type.elem_type == 10


@pytest.mark.slow
def test_weights_of_a_large_model_are_in_one_file_beside_it(tmp_path: Path) -> None:
    text = "import torch\ndef make():\n    return torch.nn.Linear(19000, 23500, bias=False)\n"
    model = run(module(tmp_path, text), tmp_path, x(None, 19000), tmp_path / "out")
    (weights,) = onnx.references(onnx.read_model(model), model)
    data = tmp_path / "out" / "model.onnx.data"
    found = (weights.location, weights.length, sorted(model.parent.iterdir()))
    data.unlink()  # pytest keeps the folders of tests
    assert found == ("model.onnx.data", 4 * 19000 * 23500, [model, data])


class TestAxes:
    def test_height_and_width_of_one_size_may_differ(self, tmp_path: Path) -> None:
        inputs = x(None, 3, None, None, example=(4, 3, 64, 64))
        text = forward("return torch.max_pool2d(x, 2).relu()")
        model = run(module(tmp_path, text), tmp_path, inputs, tmp_path / "out")
        assert dims(model)["x"] == ["batch", 3, "x_2", "x_3"]
        found = outputs(model, {"x": np.ones((5, 3, 8, 30), np.float32)})
        assert found[0].shape == (5, 3, 4, 15)

    def test_axes_that_the_model_holds_equal_are_one(self, tmp_path: Path) -> None:
        model = run(module(tmp_path, TRANSFORMER), tmp_path, TEXT, tmp_path / "out")
        assert dims(model)["ids"] == dims(model)["mask"] == ["batch", "ids_1"]

    def test_axes_of_two_inputs_with_one_size_may_differ(self, tmp_path: Path) -> None:
        axes = InputAxes(type="float32", dims=(None, None), example=(4, 16), batch=True)
        text = forward("return q.sum(1), k.sum(1)", "q, k")
        model = run(module(tmp_path, text), tmp_path, {"q": axes, "k": axes}, tmp_path / "out")
        assert dims(model)["q"] == ["batch", "q_1"]
        assert dims(model)["k"] == ["batch", "k_1"]

    def test_squares_stay_squares(self, tmp_path: Path) -> None:
        inputs = x(None, None, None, example=(4, 16, 16))
        text = forward("return x + x.transpose(1, 2)")
        model = run(module(tmp_path, text), tmp_path, inputs, tmp_path / "out")
        assert dims(model)["x"] == ["batch", "x_1", "x_1"]

    def test_a_branch_is_that_of_the_spec_s_sizes(self, tmp_path: Path) -> None:
        inputs = x(None, None, example=(16, 16))
        text = forward("return x * 2 if x.shape[1] < 20 else x * 3")
        model = run(module(tmp_path, text), tmp_path, inputs, tmp_path / "out")
        assert outputs(model, {"x": np.ones((16, 16), np.float32)})[0][0, 0] == 2

    def test_one_that_the_model_fixes_is_told(self, tmp_path: Path) -> None:
        text = forward("return x * (1 if int(x.shape[0]) == 4 else 3)")
        assert problem(module(tmp_path, text), tmp_path, x(None, 8)) == (
            "'nets:make': axis 0 of input 'x' varies in the spec, and the model works with 4 alone"
            "\nhint: look for int(...) and Python numbers made of shapes in 'forward', or write "
            "that size for min, opt and max"
        )

    def test_one_that_a_program_fixes_is_told(self, tmp_path: Path) -> None:
        source = program_of(tmp_path, made(CONVNET), IMAGE)
        assert problem(source, tmp_path, IMAGE) == (
            "'model.pt2': axis 0 of input 'image' varies in the spec, and the program was exported "
            "with 4 there\nhint: torch.export.export(..., dynamic_shapes=...) keeps an axis open; "
            "or write 4 for min, opt and max"
        )

    def test_one_that_tracing_fixed_is_told(self, tmp_path: Path) -> None:
        net = made(forward("return x.reshape(int(x.shape[0]), 2, 4)"))
        source = traced(tmp_path, net, torch.zeros(4, 8))
        assert problem(source, tmp_path, x(None, 8)).startswith(
            "'model.pt' fails with inputs [8, 8]: "
        )

    def test_one_that_a_program_leaves_open_may_be_fixed_in_the_spec(self, tmp_path: Path) -> None:
        source = program_of(tmp_path, made(CONVNET), IMAGE, {0: torch.export.Dim.DYNAMIC})
        fixed = {"image": InputAxes(type="float32", dims=(4, 3, 32, 32), example=(4, 3, 32, 32))}
        agree(run(source, tmp_path, fixed, tmp_path / "out"), made(CONVNET), IMAGE, {0: 4})


class TestWeights:
    def test_that_miss_some_and_have_others(self, tmp_path: Path) -> None:
        weights = made(CONVNET).state_dict()
        weights["fc3.bias"] = weights.pop("fc2.bias").clone()
        save_file(weights, tmp_path / "w.safetensors")
        text = problem(module(tmp_path, CONVNET, weights="w.safetensors"), tmp_path, IMAGE)
        assert "'w.safetensors' has no 'fc2.bias' and has more than the module: 'fc3.bias'" in text

    def test_with_a_prefix(self, tmp_path: Path) -> None:
        weights = {f"module.{name}": each for name, each in made(CONVNET).state_dict().items()}
        torch.save(weights, tmp_path / "w.pt")
        text = problem(module(tmp_path, CONVNET, weights="w.pt"), tmp_path, IMAGE)
        assert "hint: the names in the file have 'module.' more in front than the module's" in text

    def test_of_other_shapes(self, tmp_path: Path) -> None:
        save_file(made(CONVNET).state_dict(), tmp_path / "w.safetensors")
        source = module(tmp_path, CONVNET, weights="w.safetensors", arguments={"width": 8})
        text = problem(source, tmp_path, IMAGE)
        assert "'w.safetensors' does not fit the module: " in text
        assert "size mismatch for conv.weight" in text

    def test_that_are_tied_stand_once_in_the_file(self, tmp_path: Path) -> None:
        text = """
            import torch
            class Net(torch.nn.Module):
                def __init__(self):
                    super().__init__()
                    self.one = torch.nn.Linear(4, 4, bias=False)
                    self.two = torch.nn.Linear(4, 4, bias=False)
                    self.two.weight = self.one.weight
                def forward(self, x):
                    return self.two(self.one(x))
            def make():
                return Net()
        """
        net = made(text, seed=7)
        save_file({"one.weight": net.one.weight.detach()}, tmp_path / "w.safetensors")
        source = module(tmp_path, text, weights="w.safetensors")
        agree(run(source, tmp_path, x(None, 4), tmp_path / "out"), net, x(None, 4), {0: 3})

    def test_inside_a_checkpoint(self, tmp_path: Path) -> None:
        checkpoint = {"epoch": 3, "state_dict": made(CONVNET).state_dict()}
        torch.save(checkpoint, tmp_path / "w.pt")
        text = problem(module(tmp_path, CONVNET, weights="w.pt"), tmp_path, IMAGE)
        assert text == (
            "'w.pt' holds a int at 'epoch', not a tensor\n"
            "hint: torch.save(checkpoint['state_dict'], ...) keeps the weights alone"
        )

    @pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
    @pytest.mark.parametrize("damage", ["half", "noise", "nothing", "pointer"])
    def test_that_are_damaged(self, tmp_path: Path, name: str, damage: str) -> None:
        weights = made(CONVNET).state_dict()
        (save_file if name.endswith("tensors") else torch.save)(weights, tmp_path / name)
        damaged(tmp_path / name, damage)
        text = problem(module(tmp_path, CONVNET, weights=name), tmp_path, IMAGE)
        assert text.startswith(f"'{name}' {DAMAGE[damage]}")

    def test_of_another_kind(self, tmp_path: Path) -> None:
        (tmp_path / "w.h5").write_bytes(b"weights")
        text = problem(module(tmp_path, CONVNET, weights="w.h5"), tmp_path, IMAGE)
        assert text.startswith("'w.h5': no weights are read from '.h5' files\n")


DAMAGE = {
    "half": "cannot be read: ",
    "noise": "cannot be read: ",
    "nothing": "is empty",
    "pointer": "is a Git LFS pointer",
}


def damaged(path: Path, damage: str) -> None:
    data = path.read_bytes()
    noise = np.random.default_rng(0).bytes(5000)
    pointer = b"version https://git-lfs.github.com/spec/v1\n"
    made_of = {"half": data[: len(data) // 2], "noise": noise, "nothing": b"", "pointer": pointer}
    path.write_bytes(made_of[damage])


@pytest.mark.parametrize("way", ["program", "torchscript"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_models_that_are_damaged(tmp_path: Path, way: str, damage: str) -> None:
    source, _ = source_of(way, "convnet", tmp_path)
    name = source.program or source.torchscript or ""
    damaged(tmp_path / name, damage)
    assert problem(source, tmp_path, IMAGE).startswith(f"'{name}' {DAMAGE[damage]}")


class Touches:
    """Pickled, it makes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch '{self.path}'",)


def rewritten(path: Path, edit: Callable[[str, bytes], bytes]) -> None:
    """An archive with other records."""
    with zipfile.ZipFile(path) as old:
        records = {name: edit(name, old.read(name)) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
        for name, data in records.items():
            new.writestr(name, data)


def with_expression(model: Json, code: str) -> Json:
    if isinstance(model, dict):
        return {k: code if k == "expr_str" else with_expression(v, code) for k, v in model.items()}
    return [with_expression(each, code) for each in model] if isinstance(model, list) else model


def with_guard(model: Json, code: str) -> Json:
    return {**model, "guards_code": [code]}


def with_name(model: Json, code: str) -> Json:
    return json.loads(json.dumps(model).replace('"image"', json.dumps(f"image={code}")))


class TestCode:
    """Files that would run code when they are loaded; each of these does with `trust`."""

    def weights(self, folder: Path) -> PytorchSource:
        net = made(CONVNET)
        state = {**net.state_dict(), "more": Touches(folder / "ran")}
        torch.save(state, folder / "w.pt")
        return module(folder, CONVNET, weights="w.pt")

    def test_in_weights_does_not_run(self, tmp_path: Path) -> None:
        text = problem(self.weights(tmp_path), tmp_path, IMAGE)
        assert text.startswith("'w.pt' holds Python objects, such as 'posix.system'")
        assert "trust: true" in text
        assert not (tmp_path / "ran").exists()

    def test_in_a_plain_pickle_does_not_run(self, tmp_path: Path) -> None:
        (tmp_path / "w.pt").write_bytes(pickle.dumps(Touches(tmp_path / "ran"), protocol=2))
        problem(module(tmp_path, CONVNET, weights="w.pt"), tmp_path, IMAGE)
        assert not (tmp_path / "ran").exists()

    def test_runs_with_trust_and_that_is_said(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        source = self.weights(tmp_path)
        trusted = PytorchSource(module=source.module, weights=source.weights, trust=True)
        with caplog.at_level(logging.WARNING):
            problem(trusted, tmp_path, IMAGE)
        assert (tmp_path / "ran").exists()
        assert "'w.pt' is trusted: what code it holds runs now" in caplog.text

    def test_in_a_whole_module_runs_with_trust_alone(self, tmp_path: Path) -> None:
        net = torch.nn.Linear(4, 2)
        torch.save(net, tmp_path / "w.pt")
        text = "import torch\ndef make():\n    return torch.nn.Linear(4, 2)\n"
        assert "such as 'torch.nn.modules.linear.Linear'" in problem(
            module(tmp_path, text, weights="w.pt"), tmp_path, x(None, 4)
        )
        source = module(tmp_path, text, weights="w.pt", trust=True)
        agree(run(source, tmp_path, x(None, 4), tmp_path / "trusted"), net, x(None, 4), {0: 3})

    @pytest.mark.parametrize("place", ["expression", "guard", "name"])
    @pytest.mark.parametrize("trust", [False, True])
    def test_in_the_text_of_a_program(self, tmp_path: Path, place: str, trust: bool) -> None:
        program_of(tmp_path, made(CONVNET), IMAGE, {0: torch.export.Dim.DYNAMIC})
        edit = {"expression": with_expression, "guard": with_guard, "name": with_name}[place]
        code = f"__import__('os').system('touch {tmp_path / 'ran'}')"

        def edited(name: str, data: bytes) -> bytes:
            if not name.endswith("models/model.json"):
                return data
            return json.dumps(edit(json.loads(data), code)).encode()

        rewritten(tmp_path / "model.pt2", edited)
        text = problem(PytorchSource(program="model.pt2", trust=trust), tmp_path, IMAGE)
        assert (tmp_path / "ran").exists() == trust
        assert ("holds an unexpected expression" in text) == (not trust)

    @pytest.mark.parametrize(
        "code",
        ["Symbol('x').__class__", "exec(Symbol)", "Symbol('a b')", "[1 for x in y]", "S(x)(y)"],
    )
    def test_no_expression_that_torch_does_not_write(self, tmp_path: Path, code: str) -> None:
        program_of(tmp_path, made(CONVNET), IMAGE, {0: torch.export.Dim.DYNAMIC})
        rewritten(
            tmp_path / "model.pt2",
            lambda name, data: (
                json.dumps(with_expression(json.loads(data), code)).encode()
                if name.endswith("models/model.json")
                else data
            ),
        )
        text = problem(PytorchSource(program="model.pt2"), tmp_path, IMAGE)
        assert f"holds an unexpected expression: {code!r}" in text

    @pytest.mark.parametrize("trust", [False, True])
    def test_in_the_example_inputs_of_a_program(self, tmp_path: Path, trust: bool) -> None:
        program_of(tmp_path, made(CONVNET), IMAGE, {0: torch.export.Dim.DYNAMIC})
        data = io.BytesIO()
        torch.save(((Touches(tmp_path / "ran"),), {}), data)
        rewritten(
            tmp_path / "model.pt2",
            lambda name, old: data.getvalue() if "sample_inputs" in name else old,
        )
        text = problem(PytorchSource(program="model.pt2", trust=trust), tmp_path, IMAGE)
        assert (tmp_path / "ran").exists() == trust
        assert ("a pickle with Python objects in it" in text) == (not trust)

    @pytest.mark.parametrize("trust", [False, True])
    def test_in_a_pickled_weight_of_a_program(self, tmp_path: Path, trust: bool) -> None:
        program_of(tmp_path, made(CONVNET), IMAGE, {0: torch.export.Dim.DYNAMIC})
        data = io.BytesIO()
        torch.save(Touches(tmp_path / "ran"), data)

        def edited(name: str, old: bytes) -> bytes:
            if name.endswith("weights_config.json"):
                config = json.loads(old)
                config["config"]["fc2.bias"]["use_pickle"] = True
                return json.dumps(config).encode()
            return data.getvalue() if name.endswith("weights/weight_5") else old

        rewritten(tmp_path / "model.pt2", edited)
        text = problem(PytorchSource(program="model.pt2", trust=trust), tmp_path, IMAGE)
        assert (tmp_path / "ran").exists() == trust
        assert ("the pickled object 'fc2.bias'" in text) == (not trust)

    @pytest.mark.parametrize("trust", [False, True])
    def test_in_torchscript_that_writes_files(self, tmp_path: Path, trust: bool) -> None:
        # TorchScript reads the source of a function, so that must be in a file.
        ran = tmp_path / "ran"
        file = write(tmp_path, forward(f"torch.save(x, '{ran}')\nreturn x + 1"), "to_script.py")
        spec = importlib.util.spec_from_file_location("to_script", file)
        assert spec is not None and spec.loader is not None
        spec.loader.exec_module(writing := importlib.util.module_from_spec(spec))
        scripted(tmp_path, writing.make())
        source = PytorchSource(torchscript="model.pt", trust=trust)
        if trust:
            run(source, tmp_path, x(None, 4), tmp_path / "out")
        else:
            text = problem(source, tmp_path, x(None, 4))
            assert text.startswith("'model.pt' holds code that touches files ('torch.save')")
        assert ran.exists() == trust

    def test_programs_with_guards_of_their_own_are_read(self, tmp_path: Path) -> None:
        net = made(forward("return x.view(-1, x.shape[1] // 2, 2).sum(1)"))
        inputs = x(None, None, example=(4, 16))
        free = torch.export.Dim.DYNAMIC
        source = program_of(tmp_path, net, inputs, {0: free, 1: free})
        agree(run(source, tmp_path, inputs, tmp_path / "out"), net, inputs, {0: 4, 1: 16})


class TestFails:
    def test_a_factory_that_raises(self, tmp_path: Path) -> None:
        text = "def make():\n    raise ValueError('no such\\n width')\n"
        said_ = problem(module(tmp_path, text), tmp_path, IMAGE)
        assert said_ == "'nets:make' failed at nets.py:2: ValueError: no such width"

    def test_a_factory_without_such_an_argument(self, tmp_path: Path) -> None:
        source = module(tmp_path, CONVNET, arguments={"widht": 8})
        assert "failed: TypeError: make() got an unexpected keyword argument 'widht'" in problem(
            source, tmp_path, IMAGE
        )

    def test_a_factory_of_something_else(self, tmp_path: Path) -> None:
        said_ = problem(module(tmp_path, "def make():\n    return 3\n"), tmp_path, IMAGE)
        assert said_ == "'nets:make' gave a int\nhint: expected a torch.nn.Module"

    def test_a_module_that_is_not_there(self, tmp_path: Path) -> None:
        write(tmp_path, CONVNET)
        source = PytorchSource(module="net:make")
        with pytest.raises(SourceFailed, match="no module 'net' beside the spec or installed"):
            export(source, folder=tmp_path, files=[], inputs=IMAGE, out=tmp_path)

    def test_a_forward_that_raises(self, tmp_path: Path) -> None:
        text = forward("y = x + 1\nraise ValueError('wrong')")
        said_ = problem(module(tmp_path, text), tmp_path, x(None, 4))
        assert said_ == "'nets:make' failed at nets.py:5: ValueError: wrong"

    def test_a_branch_on_values(self, tmp_path: Path) -> None:
        text = forward("if x.sum() > 0:\n    return x\nreturn -x")
        said_ = problem(module(tmp_path, text), tmp_path, x(None, 4))
        assert said_.startswith("'nets:make' failed at nets.py:4: GuardOnDataDependentSymNode: ")
        assert said_.endswith("hint: a branch on what tensors hold: torch.where, or torch.cond")

    def test_inputs_that_forward_does_not_take(self, tmp_path: Path) -> None:
        said_ = problem(module(tmp_path, CONVNET), tmp_path, TEXT)
        assert said_ == (
            "'nets:make': inputs (ids, mask) are not those of forward(image)\n"
            "hint: name the inputs like the parameters of 'forward'"
        )

    def test_inputs_that_forward_wants(self, tmp_path: Path) -> None:
        said_ = problem(module(tmp_path, TRANSFORMER), tmp_path, {"ids": TEXT["ids"]})
        assert said_.startswith(
            "'nets:make': inputs (ids) do not fit forward(ids, mask): missing a required argument"
        )

    @pytest.mark.parametrize("way", ["module", "program", "torchscript"])
    def test_an_operator_without_a_form_in_onnx(self, tmp_path: Path, way: str) -> None:
        text = forward("return torch.special.bessel_j0(x)")
        source = module(tmp_path, text)
        if way == "program":
            source = program_of(tmp_path, made(text), x(4, 4))
        if way == "torchscript":
            source = traced(tmp_path, made(text), torch.zeros(4, 4))
        said_ = problem(source, tmp_path, x(4, 4))
        operator = "aten::special_bessel_j0" if way == "torchscript" else "prims.bessel_j0"
        assert f"the operator '{operator}' has no form in ONNX" in said_

    @pytest.mark.parametrize("way", ["module", "program", "torchscript"])
    def test_bfloat16(self, tmp_path: Path, way: str) -> None:
        text = "import torch\ndef make():\n    return torch.nn.Linear(4, 2).bfloat16()\n"
        source, called = module(tmp_path, text), "nets:make"
        if way == "program":
            source, called = program_of(tmp_path, made(text), x(4, 4, kind="bfloat16")), "model.pt2"
        if way == "torchscript":
            source, called = scripted(tmp_path, made(text)), "model.pt"
        assert problem(source, tmp_path, x(4, 4)) == (
            f"'{called}': 'weight' is bfloat16, of which PyTorch exports models that mix types\n"
            "hint: export it as float32, and let a variant say precision: bf16"
        )

    def test_bfloat16_inputs(self, tmp_path: Path) -> None:
        said_ = problem(module(tmp_path, CONVNET), tmp_path, x(None, 4, kind="bfloat16"))
        assert said_.startswith("input 'x' is bfloat16")

    def test_another_number_of_outputs(self, tmp_path: Path) -> None:
        source = module(tmp_path, forward("return x, x + 1"), outputs=("one",))
        assert problem(source, tmp_path, x(None, 4)) == (
            "'nets:make' has 2 outputs, and 'outputs' names 1"
        )

    def test_a_program_of_another_type(self, tmp_path: Path) -> None:
        source = program_of(tmp_path, made(CONVNET), IMAGE)
        other = {"image": InputAxes(type="float16", dims=(4, 3, 32, 32), example=(4, 3, 32, 32))}
        assert problem(source, tmp_path, other).startswith(
            "'model.pt2': input 'image' is float32, and the spec says float16\n"
        )

    def test_a_program_of_another_shape(self, tmp_path: Path) -> None:
        source = program_of(tmp_path, made(CONVNET), IMAGE)
        other = {"image": InputAxes(type="float32", dims=(4, 3, 64, 64), example=(4, 3, 64, 64))}
        assert problem(source, tmp_path, other) == (
            "'model.pt2': input 'image' has the shape [4, 3, 32, 32], and the spec says "
            "[4, 3, 64, 64]"
        )

    def test_torchscript_in_the_place_of_weights(self, tmp_path: Path) -> None:
        traced(tmp_path, made(CONVNET), torch.zeros(2, 3, 32, 32))
        said_ = problem(module(tmp_path, CONVNET, weights="model.pt"), tmp_path, IMAGE)
        assert (
            said_ == "'model.pt' is a TorchScript archive, not weights\nhint: torchscript: model.pt"
        )

    def test_weights_in_the_place_of_torchscript(self, tmp_path: Path) -> None:
        torch.save(made(CONVNET).state_dict(), tmp_path / "model.pt")
        said_ = problem(PytorchSource(torchscript="model.pt"), tmp_path, IMAGE)
        assert said_.startswith("'model.pt' cannot be read: ")
        assert "weights are for a 'module'" in said_

    def test_weights_in_the_place_of_a_program(self, tmp_path: Path) -> None:
        torch.save(made(CONVNET).state_dict(), tmp_path / "model.pt2")
        said_ = problem(PytorchSource(program="model.pt2"), tmp_path, IMAGE)
        assert said_.startswith("'model.pt2' is no program that torch.export.save")
