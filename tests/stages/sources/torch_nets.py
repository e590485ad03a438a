"""Networks as people write them, in a file beside their spec."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

CONVNET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, padding=1)
        self.fc1 = nn.Linear(width * 16 * 16, 128)
        self.dropout = nn.Dropout()
        self.fc2 = nn.Linear(128, 10)

    def forward(self, image):
        x = torch.max_pool2d(torch.relu(self.conv(image)), 2)
        return self.fc2(self.dropout(torch.relu(self.fc1(x.flatten(1)))))

def make(width: int = 32):
    return Net(width)
"""

TRANSFORMER = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        wide = 2 * width
        self.mlp = nn.Sequential(nn.Linear(width, wide), nn.GELU(), nn.Linear(wide, width))

    def forward(self, x, mask):
        batch, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        scores = q @ k.transpose(-1, -2) * (width // self.heads) ** -0.5
        scores = scores + (1.0 - mask)[:, None, None, :] * -1e4
        x = x + self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp(self.norm2(x))

class Transformer(nn.Module):
    def __init__(self, width: int = 32):
        super().__init__()
        self.words = nn.Embedding(100, width)
        self.places = nn.Parameter(torch.randn(1, 64, width))
        self.blocks = nn.ModuleList(Block(width, 4) for _ in range(2))
        self.head = nn.Linear(width, 5)

    def forward(self, ids, mask):
        x = self.words(ids) + self.places[:, : ids.shape[1]]
        for block in self.blocks:
            x = block(x, mask)
        return self.head(x.mean(1))

def make():
    return Transformer()
"""

Net = Any


def write(folder: Path, text: str, name: str = "nets.py") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(textwrap.dedent(text))
    return folder / name


def made(text: str, *, seed: int = 0) -> Net:
    """The module that `make` of this text returns."""
    import torch

    namespace: dict[str, Any] = {"__name__": "nets_of_a_test"}
    exec(compile(textwrap.dedent(text), "nets.py", "exec"), namespace)  # noqa: S102
    torch.manual_seed(seed)
    return namespace["make"]().eval()
