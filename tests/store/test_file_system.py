"""What a cache's file system can be trusted with."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engineforge.store.file_system import file_system
from engineforge.store.local import LocalStore


def _mounts(root: Path, kind: str, device: str | None = None) -> str:
    """As /proc/self/mountinfo has it: a file system at `root`, below one of another kind."""
    stat = root.stat()
    device = device or f"{os.major(stat.st_dev)}:{os.minor(stat.st_dev)}"
    where = str(root.resolve()).replace(" ", "\\040")
    return (
        "22 1 0:1 / / rw,relatime shared:1 - squashfs /dev/root rw\n"
        "23 22 0:5 / /proc rw - proc proc rw\n"
        f"24 22 {device} / {where} rw,relatime shared:2 master:3 - {kind} some:/thing rw,vers=4\n"
    )


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "tmpfs", "overlay"])
def test_locks_hold_on_file_systems_of_one_kernel(tmp_path: Path, kind: str) -> None:
    found = file_system(tmp_path, _mounts(tmp_path, kind))
    assert (found.kind, found.locks, found.note) == (kind, "reliable", "")


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "9p", "fuse.glusterfs"])
def test_locks_of_shared_file_systems_may_not_hold_and_need_not(tmp_path: Path, kind: str) -> None:
    found = file_system(tmp_path, _mounts(tmp_path, kind))
    assert (found.kind, found.locks, found.note) == (kind, "advisory", "")


def test_of_an_unknown_kind_it_is_said_what_may_happen(tmp_path: Path) -> None:
    found = file_system(tmp_path, _mounts(tmp_path, "fuse.s3fs"))
    assert (found.kind, found.locks) == ("fuse.s3fs", "advisory")
    assert found.note.startswith(f"the cache '{tmp_path}' is on 'fuse.s3fs', which is not known")


def test_where_nothing_is_told_the_kind_is_unknown(tmp_path: Path) -> None:
    assert file_system(tmp_path, "").kind == "unknown"
    assert file_system(tmp_path, "no such format\n").kind == "unknown"


def test_a_subvolume_whose_device_no_mount_names_is_found_by_its_place(tmp_path: Path) -> None:
    assert file_system(tmp_path, _mounts(tmp_path, "btrfs", device="0:999")).kind == "btrfs"


def test_of_mounts_on_one_another_the_last_one_shows(tmp_path: Path) -> None:
    both = _mounts(tmp_path, "ext4") + _mounts(tmp_path, "nfs").splitlines()[-1]
    assert file_system(tmp_path, both).kind == "nfs"


def test_a_folder_with_a_space_in_its_name_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "my cache"
    folder.mkdir()
    assert file_system(folder, _mounts(folder, "xfs", device="0:999")).kind == "xfs"


def test_this_machine_tells(tmp_path: Path) -> None:
    assert file_system(tmp_path).kind != "unknown"


def test_a_doubtful_file_system_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strange = tmp_path / "mountinfo"
    strange.write_text(_mounts(tmp_path, "fuse.s3fs"))
    monkeypatch.setattr("engineforge.store.file_system._MOUNTS", strange)
    said: list[str] = []
    store = LocalStore(tmp_path / "cache", said.append)
    for _ in range(2):
        with store.session():
            pass
    assert len(said) == 1
    assert "fuse.s3fs" in said[0]
