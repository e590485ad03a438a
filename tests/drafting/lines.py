"""The command lines of trtexec that people wrote, and models with the inputs that they name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import yaml
from onnx import TensorProto, helper

from engineforge.drafting.shell import Command, commands
from tests.models import save

FILE = Path(__file__).parent / "trtexec_commands.yaml"


@dataclass(frozen=True)
class Line:
    """`index` is which of the commands of its text it is."""

    source: str
    text: str
    index: int = 0
    refused: Sequence[str] = ()
    to_do: Sequence[str] = ()
    left_out: Sequence[str] = ()
    differs: Sequence[str] = ()
    build: bool = False

    @property
    def command(self) -> Command:
        return commands(self.text)[self.index]


LINES = [Line(**each) for each in yaml.safe_load(FILE.read_text(encoding="utf-8"))]


def model(path: Path, shapes: Mapping[str, Any], *, integers: bool = False) -> Path:
    """A model that has these inputs, dynamic where they vary; one of its own where there are none.

    `shapes` are the `inputs` of a spec.
    """
    given = shapes or {"x": [1, 3, 8, 8]}
    inputs, nodes, outputs = [], [], []
    for name, value in given.items():
        bounds = value if isinstance(value, dict) else dict.fromkeys(("min", "max"), value)
        dims = [
            low if low == high else None
            for low, high in zip(bounds["min"], bounds["max"], strict=True)
        ]
        kind = TensorProto.INT32 if integers else TensorProto.FLOAT
        inputs.append(helper.make_tensor_value_info(name, kind, dims))
        nodes.append(
            helper.make_node("Cast", [name], [f"{name}_f"], name=f"c_{name}", to=TensorProto.FLOAT)
        )
        nodes.append(helper.make_node("Relu", [f"{name}_f"], [f"{name}_y"], name=f"r_{name}"))
        outputs.append(helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, dims))
    graph: onnx.GraphProto = helper.make_graph(nodes, "made", inputs, outputs)
    return save(graph, path)
