"""Data larger than what is to be held of it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from numpy.lib import format as npy

ROWS, ROW = 512, (3, 224, 224)
MEBIBYTES = ROWS * 3 * 224 * 224 * 4 // 2**20

STREAM = """
import resource, sys
from pathlib import Path
from engineforge.samples.read import Samples
from engineforge.spec.model import ArrayFiles, TensorInterface

x = TensorInterface(name="x", type="float32", dims=("batch", 3, 224, 224))
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before = peak()
path = Path(sys.argv[1])
data = ArrayFiles(path=path.name)
count = sum(1 for _ in Samples(data, path.parent, [x], samples=None, seed=None, calibrating=True))
print(count, peak() - before)
"""


def write(path: Path) -> None:
    """Zeros, with noise in the first pixels of each: quickly written, and small on disk."""
    random = np.random.default_rng(0)
    header = {"descr": "<f4", "fortran_order": False, "shape": (ROWS, *ROW)}
    with ExitStack() as stack:
        if path.suffix == ".npz":
            archive = stack.enter_context(zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED))
            file = stack.enter_context(archive.open("x.npy", "w", force_zip64=True))
        else:
            file = stack.enter_context(path.open("wb"))
        npy.write_array_header_1_0(file, header)
        for _ in range(ROWS):
            row = np.zeros(ROW, np.float32)
            row[0, 0, :16] = random.random(16)
            file.write(row.tobytes())


@pytest.mark.parametrize("name", ["x.npz", "x.npy"])
def test_a_large_array_is_never_in_memory(tmp_path: Path, name: str) -> None:
    write(tmp_path / name)
    assert MEBIBYTES == 294
    done = subprocess.run(
        [sys.executable, "-c", STREAM, str(tmp_path / name)],
        capture_output=True,
        text=True,
        check=True,
    )
    count, grown = map(int, done.stdout.split())
    assert count == ROWS
    assert grown < 30, f"{grown} MiB"
