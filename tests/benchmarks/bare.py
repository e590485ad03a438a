"""The script that EngineForge is compared with: one engine, TensorRT-RTX called directly.

Usage: bare.py MODEL SHAPES CAPABILITY ENGINE [--stream] [--fsync], with SHAPES as JSON such as
`{"x": [[1, 8], [4, 8], [8, 8]]}`. Sets what EngineForge sets where a spec says nothing. `--stream`
writes the engine while TensorRT serializes it; else it is held in memory whole. `--fsync` waits
until the file is on the disk.
"""

from __future__ import annotations

import json
import os
import sys

import tensorrt_rtx as trt  # type: ignore[import-untyped, unused-ignore]


class Writer(trt.IStreamWriter):  # type: ignore[misc]
    """Writes what TensorRT hands over, and does nothing else."""

    def __init__(self, descriptor: int) -> None:
        trt.IStreamWriter.__init__(self)
        self._descriptor = descriptor

    def write(self, data: bytes) -> int:
        return os.write(self._descriptor, data)


def main() -> None:
    model, shapes, capability, path, *options = sys.argv[1:]
    builder = trt.Builder(trt.Logger(trt.Logger.WARNING))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    config = builder.create_builder_config()
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.WARNING))
    if not parser.parse_from_file(model):
        raise SystemExit(parser.get_error(0).desc())
    config.set_flag(trt.BuilderFlag.TF32)
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 64 << 30)
    config.set_memory_pool_limit(trt.MemoryPoolType.TACTIC_SHARED_MEMORY, 1 << 30)
    config.profiling_verbosity = trt.ProfilingVerbosity.LAYER_NAMES_ONLY
    profile = builder.create_optimization_profile()
    for name, ranges in json.loads(shapes).items():
        profile.set_shape(name, *ranges)
    config.add_optimization_profile(profile)
    config.num_compute_capabilities = 1
    wanted = getattr(trt.ComputeCapability, "SM" + capability.replace(".", ""))
    config.set_compute_capability(wanted, 0)
    with open(path, "xb", buffering=0) as file:  # noqa: PTH123 - a bare script imports no more
        if "--stream" in options:
            writer = Writer(file.fileno())
            if not builder.build_serialized_network_to_stream(network, config, writer):
                raise SystemExit("no engine")
        else:
            engine = builder.build_serialized_network(network, config)
            if engine is None:
                raise SystemExit("no engine")
            file.write(engine)
        if "--fsync" in options:
            os.fsync(file.fileno())


if __name__ == "__main__":
    main()
