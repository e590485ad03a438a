"""Small file systems of one's own, for what happens where a disk is full or read-only."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest


class Mount(Protocol):
    def __call__(self, options: str, kind: str = "tmpfs") -> Path: ...


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts a tmpfs with these options at `disk`; again for the same one, with others."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mounted(options: str, kind: str = "tmpfs") -> Path:
        again = ["-o", f"remount,{options}"] if disk.is_mount() else ["-o", options]
        command = ["mount", "-t", kind, *again, kind, str(disk)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"needs the right to mount a {kind} (root): {done.stderr.strip()}")
        return disk

    yield mounted
    if disk.is_mount():
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
