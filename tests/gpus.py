"""GPUs that tests speak of, as CUDA describes them: no test that uses these has one."""

from __future__ import annotations

from dataclasses import replace

from engineforge.backends.gpu import HostGpu
from engineforge.target import Gpu

H200 = Gpu(
    name="NVIDIA H200",
    compute_capability="9.0",
    sm_count=132,
    memory=150_000_000_000,
    memory_bus_width=6144,
    l2_cache=60 << 20,
    shared_memory_per_block=227 << 10,
    shared_memory_per_sm=228 << 10,
    ecc=True,
    mig_profile=None,
)
# The others have what tests tell them apart by, and the rest of the H200's.
L4 = replace(H200, name="NVIDIA L4", compute_capability="8.9", sm_count=58)
RTX_4090 = replace(L4, name="NVIDIA RTX 4090", sm_count=128)


def host_gpu(
    kind: Gpu = H200, index: int = 0, *, driver: str = "580.159.04", cuda: str = "13.0"
) -> HostGpu:
    return HostGpu(index=index, uuid=f"GPU-{index}", gpu=kind, driver=driver, cuda=cuda)
