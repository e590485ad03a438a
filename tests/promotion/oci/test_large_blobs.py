"""Blobs that are larger than the memory that they may take."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys

import pytest

from tests.promotion.oci.registries import RunningRegistry, registry

__all__ = ["registry"]

SCRIPT = """
import hashlib, json, re, sys
from pathlib import Path
from engineforge.digest import Digest
from engineforge.promotion.oci.documents import Descriptor
from engineforge.promotion.oci.registry import Registry

def peak():
    return int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

def chunks(offset):
    for at in range(offset, SIZE, 1 << 20):
        yield at.to_bytes(8, "big") * (1 << 17)

SIZE = 300 << 20
found = hashlib.sha256()
for chunk in chunks(0):
    found.update(chunk)
blob = Descriptor(media_type="a/b", digest=Digest("sha256:" + found.hexdigest()), size=SIZE)
repository = Registry.open(sys.argv[1], environment={}, said=print)
before = peak()
repository.push(blob, chunks)
pushed = peak()
assert sum(map(len, repository.stream(blob))) == SIZE
print(json.dumps({"before": before, "pushed": pushed, "pulled": peak()}))
"""


@pytest.mark.slow
def test_a_large_blob_goes_up_and_down_with_little_memory(registry: RunningRegistry) -> None:
    url = registry.url(f"test/{secrets.token_hex(6)}")
    command = [sys.executable, "-c", SCRIPT, url]
    ended = subprocess.run(command, check=True, capture_output=True, text=True)
    peaks = json.loads(ended.stdout)
    assert peaks["pulled"] < 100, peaks
    assert peaks["pulled"] - peaks["before"] < 30, peaks
