"""Options that are set on a network, on a real network of TensorRT-RTX."""

from __future__ import annotations

from typing import Any

import pytest

from engineforge.backends import BuildError
from engineforge.backends.network_settings import NetworkSettings
from engineforge.backends.options import BY_NAME

trt: Any = pytest.importorskip(
    "tensorrt_rtx", reason="needs: python -m pip install 'engineforge[rtx]'"
)
DECOMPOSABLE = BY_NAME["decomposable_attentions"]


class Attentions:
    """A network of attentions of these names."""

    def __init__(self, *names: str) -> None:
        self._builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
        self.network: Any = self._builder.create_network(0)
        self.attentions: dict[str, Any] = {}
        for name in names:
            ends = [
                self.network.add_input(f"{name}.{each}", trt.DataType.HALF, (1, 4, 8, 32))
                for each in "qkv"
            ]
            made = self.network.add_attention(*ends, trt.AttentionNormalizationOp.SOFTMAX, False)
            made.name = name
            self.network.mark_output(made.get_output(0))
            self.attentions[name] = made

    def set(self, *patterns: str) -> object:
        settings = NetworkSettings(trt, config=None, network=self.network)
        return settings.set(DECOMPOSABLE, list(patterns))

    def decomposable(self) -> list[str]:
        return [name for name, each in self.attentions.items() if each.decomposable]


def test_attentions_are_decomposed_by_name_and_no_others() -> None:
    network = Attentions("one", "two")
    assert network.set("two") == ["two"]
    assert network.decomposable() == ["two"]


def test_a_pattern_means_attentions_alone() -> None:
    network = Attentions("one", "two")
    assert network.set("*") == ["*"]
    assert network.decomposable() == ["one", "two"]


def test_an_attention_that_is_not_there_is_an_error_that_names_those_that_are() -> None:
    network = Attentions("one", "two")
    with pytest.raises(BuildError, match="no attention is called 'three'") as error:
        network.set("three")
    assert error.value.hint == "the network has 'one', 'two'"
