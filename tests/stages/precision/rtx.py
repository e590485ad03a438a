"""Engines from typed models, for a GPU that is not here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


def build(path: Path, shapes: dict[str, tuple[int, ...]] | None = None) -> int:
    """Build a model with TensorRT-RTX for compute capability 8.9; the size of its engine. `shapes`
    are those of inputs that have dynamic ones. Fails with what the parser says."""
    trt: Any = pytest.importorskip(
        "tensorrt_rtx", reason="needs: python -m pip install 'engineforge[rtx]'"
    )
    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse_from_file(str(path))
    assert parsed, [parser.get_error(i).desc() for i in range(parser.num_errors)]
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        if -1 in tuple(tensor.shape):
            profile.set_shape(tensor.name, *[(shapes or {})[tensor.name]] * 3)
    config.add_optimization_profile(profile)
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    engine = builder.build_serialized_network(network, config)
    assert engine is not None
    return int(engine.nbytes)
