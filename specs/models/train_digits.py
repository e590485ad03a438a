"""Trains the project's two digit networks, and writes them with the data they saw and did not see.

Run on a CPU, from anywhere; the files land beside this script:

    pip install torch==2.13.0 scikit-learn onnx onnxscript onnxruntime
    python train_digits.py

The README beside it says where the data is from and how to feed the networks.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime  # type: ignore[import-untyped]  # ships no type information
import torch
from sklearn.datasets import load_digits  # type: ignore[import-untyped]  # ships no type information
from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]
from torch import Tensor, nn
from torch.nn import functional

SEED = 0
OPSET = 18  # the lowest that the exporter writes; see `for_tensorrt_8`
HOLDOUT_FRACTION = 0.2

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


class Digits(NamedTuple):
    """Some of the data set, as it comes."""

    image8: Bytes
    """[n, 8, 8], values 0..16: how many of 4x4 scanned pixels were inked."""

    label: Bytes
    """[n], values 0..9."""


def load_split() -> tuple[Digits, Digits]:
    """The training part and the holdout: the same on every call, digits in proportion."""
    images, labels = load_digits().images, load_digits().target
    image8, label = images.astype(np.uint8), labels.astype(np.uint8)
    seen_image, held_image, seen_label, held_label = train_test_split(
        image8, label, test_size=HOLDOUT_FRACTION, stratify=label, random_state=SEED
    )
    return Digits(seen_image, seen_label), Digits(held_image, held_label)


def convnet_input(image8: Bytes) -> Floats:
    """[n, 8, 8] raw values to [n, 3, 32, 32] in 0..1: each pixel becomes 4x4, on 3 channels."""
    large = np.kron(image8, np.ones((1, 4, 4), np.float32)) / np.float32(16)
    return np.repeat(large[:, np.newaxis], 3, axis=1)


def transformer_input(image8: Bytes) -> Floats:
    """[n, 8, 8] raw values to [n, 1, 8, 8] in 0..1."""
    return image8[:, np.newaxis].astype(np.float32) / np.float32(16)


class Convnet(nn.Module):
    """The small CIFAR-10 network of the tutorials: [n, 3, 32, 32] to [n, 10] logits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        # Pooling by 4 instead of 2 makes the file 0.6 MB instead of 2.2 MB.
        self.fc1 = nn.Linear(64 * 4 * 4, 128)
        self.fc2 = nn.Linear(128, 10)
        self.dropout = nn.Dropout(0.3)

    def forward(self, image: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.conv1(image)), 2)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 4)
        x = functional.relu(self.fc1(self.dropout(x.flatten(1))))
        logits: Tensor = self.fc2(self.dropout(x))
        return logits


class Block(nn.Module):
    """One pre-norm transformer layer on [n, tokens, width].

    Attention is spelled out, so that the graph holds MatMul and Softmax and no fused operator.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x)
        query, key, value = (self._split(part(h)) for part in (self.query, self.key, self.value))
        scale = query.shape[-1] ** -0.5
        weights = torch.softmax(query @ key.transpose(-2, -1) * scale, dim=-1)
        mixed = (weights @ value).transpose(1, 2).flatten(2)
        attended: Tensor = x + self.dropout(self.out(mixed))
        wide = functional.gelu(self.up(self.norm2(attended)))
        deep: Tensor = attended + self.dropout(self.down(wide))
        return deep

    def _split(self, x: Tensor) -> Tensor:
        """[n, tokens, width] to [n, heads, tokens, width / heads]."""
        return torch.unflatten(x, 2, (self.heads, -1)).transpose(1, 2)


class Transformer(nn.Module):
    """A vision transformer in miniature: [n, 1, 8, 8] to [n, 10] logits, each 2x2 patch a token."""

    def __init__(self, width: int = 64, heads: int = 4, layers: int = 2) -> None:
        super().__init__()
        self.embed = nn.Linear(4, width)
        self.position = nn.Parameter(0.02 * torch.randn(16, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, image: Tensor) -> Tensor:
        # 8x8 → 4 rows x 2 x 4 columns x 2 → 16 patches of 4 pixels.
        patches = image.reshape(-1, 4, 2, 4, 2).transpose(2, 3).reshape(-1, 16, 4)
        x = self.embed(patches) + self.position
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x).mean(dim=1))
        return logits


class Recipe(NamedTuple):
    """How one of the networks is made and trained."""

    name: str
    build: Callable[[], nn.Module]
    prepare: Callable[[Bytes], Floats]
    epochs: int
    learning_rate: float
    shift: int
    """Training images are moved by up to this many pixels of the network's input each way."""


RECIPES = (
    Recipe("digits-convnet", Convnet, convnet_input, epochs=40, learning_rate=2e-3, shift=2),
    Recipe(
        "digits-transformer",
        Transformer,
        transformer_input,
        epochs=150,
        learning_rate=2e-3,
        shift=1,
    ),
)


def shifted(images: Tensor, most: int) -> Tensor:
    """`images` with each moved by its own random offset; what comes in at the edges is blank."""
    count, _, height, width = images.shape
    padded = functional.pad(images, (most, most, most, most))
    down, right = torch.randint(0, 2 * most + 1, (2, count)).tolist()
    moved = [
        image[:, y : y + height, x : x + width]
        for image, y, x in zip(padded, down, right, strict=True)
    ]
    return torch.stack(moved)


def train(recipe: Recipe, digits: Digits) -> nn.Module:
    """The network after its last epoch: the holdout has no say in when to stop."""
    # One thread: how sums are split over threads changes their last bits, and so the weights.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(SEED)
    model = recipe.build()
    images = torch.from_numpy(recipe.prepare(digits.image8))
    labels = torch.from_numpy(digits.label.astype(np.int64))
    batch = 64
    steps = recipe.epochs * -(-len(images) // batch)
    optimizer = torch.optim.AdamW(model.parameters(), recipe.learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, steps)
    for _ in range(recipe.epochs):
        for chosen in torch.split(torch.randperm(len(images)), batch):
            logits = model(shifted(images[chosen], recipe.shift))
            loss = functional.cross_entropy(logits, labels[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
            optimizer.step()
            schedule.step()
    return model.eval()


def export(model: nn.Module, example: Floats) -> onnx.ModelProto:
    """`model` as ONNX, `image` to `logits`, any batch, and with no trace of this machine in it."""
    program = torch.onnx.export(
        model,
        (torch.from_numpy(example),),
        dynamo=True,
        external_data=False,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        input_names=["image"],
        output_names=["logits"],
        opset_version=OPSET,
        verbose=False,
    )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    proto = program.model_proto
    # The exporter writes stack traces, with the absolute paths of its files, into every node.
    for part in (proto, proto.graph, *proto.graph.node, *proto.graph.input, *proto.graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
    for weight in proto.graph.initializer:
        del weight.metadata_props[:]
        weight.doc_string = ""
    del proto.graph.value_info[:]
    proto.producer_name = proto.producer_version = ""
    for_tensorrt_8(proto)
    return proto


def for_tensorrt_8(proto: onnx.ModelProto) -> None:
    """Opset 18 as 17, where ReduceMean has its axes as an attribute, as TensorRT 8 reads them."""
    weights = {weight.name: weight for weight in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "ReduceMean":
            axes = weights.pop(node.input.pop())
            proto.graph.initializer.remove(axes)
            keep = [each for each in node.attribute if each.name == "keepdims"]
            del node.attribute[:]
            values = onnx.numpy_helper.to_array(axes).tolist()
            node.attribute.extend([*keep, onnx.helper.make_attribute("axes", values)])
    proto.opset_import[0].version = 17
    onnx.checker.check_model(proto, full_check=True)


def accuracy(model: Path, images: Floats, labels: Bytes) -> float:
    """The share of `images` that ONNX Runtime and the file `model` name as `labels` does."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": images})
    return float(np.mean(logits.argmax(axis=1) == labels))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent, help="folder to write to"
    )
    out: Path = parser.parse_args().out
    seen, held = load_split()
    for name, part in (("digits-train", seen), ("digits-holdout", held)):
        np.savez_compressed(out / f"{name}.npz", image8=part.image8, label=part.label)
    for recipe in RECIPES:
        start = time.perf_counter()
        model = train(recipe, seen)
        seconds = time.perf_counter() - start
        path = out / f"{recipe.name}.onnx"
        # Two samples: with one, the exporter takes the batch for a constant.
        onnx.save(export(model, recipe.prepare(seen.image8[:2])), path)
        right_seen, right_held = (
            accuracy(path, recipe.prepare(part.image8), part.label) for part in (seen, held)
        )
        print(
            f"{path.name}: {path.stat().st_size} bytes, trained in {seconds:.0f} s, "
            f"accuracy {right_held:.2%} on {len(held.label)} held out, "
            f"{right_seen:.2%} on {len(seen.label)} seen"
        )


if __name__ == "__main__":
    main()
