"""A cache on a disk that is full or read-only: said clearly, nothing half, and no traceback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import Forge
from tests.store.conftest import Mount

_OLD_ENOUGH = 2.1
"""Seconds: files on another file system than the cache's are not told by their stats before."""


def _litter(cache: Path) -> list[str]:
    """What is in staging, but for the folder of locks."""
    staging = cache / "staging"
    return (
        [each.name for each in staging.iterdir() if each.name != "locks"]
        if staging.exists()
        else []
    )


def _all_whole(forge: Forge, cache: Path) -> bool:
    result = forge.run("verify", "--cache", cache, "--json")
    return result.code == 0 and result.json["faults"] == []


def test_too_little_room_is_said_before_the_build(forge: Forge, mount: Mount) -> None:
    disk = mount("size=16m")
    result = forge.build("--cache", disk)
    assert result.code == 1
    (variant,) = result.json["variants"]
    assert variant["stage"] == "store"
    assert f"the file system of '{disk}' has 15 MiB free" in variant["error"]
    assert list(disk.glob("entries-v1/engine/*/*")) == []
    mount("size=200m")
    assert forge.build("--cache", disk).outcomes() == {"fp32@ada": "built"}
    assert _all_whole(forge, disk)


def _fill(disk: Path) -> None:
    """Take every byte that is left."""
    handle = os.open(disk / "filler", os.O_WRONLY | os.O_CREAT)
    try:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    os.write(handle, bytes(size))
            except OSError:
                continue
    finally:
        os.close(handle)


def test_a_disk_that_fills_up_under_a_build_fails_it_and_leaves_nothing(
    forge: Forge, mount: Mount
) -> None:
    disk = mount("size=80m")
    process = forge.process("build", "specs", "--cache", str(disk), "--json")
    assert process.stderr is not None
    while "building" not in process.stderr.readline():
        assert process.poll() is None
    _fill(disk)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    (variant,) = json.loads(out)["variants"]
    assert variant["outcome"] == "failed"
    assert "No space left on device" in variant["error"]
    assert str(disk) in variant["error"]
    assert "Traceback" not in err + str(variant["log"])
    assert list(disk.glob("entries-v1/engine/*/*")) == []
    assert _litter(disk) == []
    (disk / "filler").unlink()
    assert forge.build("--cache", disk).outcomes() == {"fp32@ada": "built"}
    assert _all_whole(forge, disk)


def test_wherever_files_can_no_longer_be_made_nothing_half_is_left(
    forge: Forge, mount: Mount
) -> None:
    # A file system that has so many inodes fails at each file in turn that a build makes.
    forge.edit("net", "  fp32: {", "  a: {")
    disk = mount("size=200m,nr_inodes=2")
    for inodes in range(3, 60, 3):
        mount(f"size=200m,nr_inodes={inodes}")
        result = forge.build("--cache", disk)
        assert _litter(disk) == [] or result.code == 0
        if result.code == 0:
            break
        assert "Traceback" not in result.err
        said = result.err + result.out
        assert "No space left on device" in said
        assert str(disk) in said
    assert result.outcomes() in ({"a@ada": "built"}, {"a@ada": "reused"})
    assert _all_whole(forge, disk)


def test_every_variant_says_that_the_disk_is_full(forge: Forge, mount: Mount) -> None:
    disk = mount("size=200m,nr_inodes=14")
    forge.edit("net", "[ada]", "[ada, ampere]")
    result = forge.build("--cache", disk, "--keep-going", "-j", "1")
    assert result.code == 1
    errors = [each["error"] for each in result.json["variants"]]
    assert all("No space left on device" in each for each in errors), errors


@pytest.fixture
def read_only(built: Forge, mount: Mount) -> Path:
    """The cache of a built project, on a disk that was then made read-only."""
    disk = mount("size=200m")
    subprocess.run(["cp", "-a", f"{built.cache}/.", disk], check=True)
    return mount("size=200m,ro")


@pytest.mark.parametrize("command", ["plan", "check", "show", "verify"])
def test_a_read_only_cache_is_read(built: Forge, read_only: Path, command: str) -> None:
    result = built.run(command, "specs", "--cache", read_only)
    assert result.code == 0, result.err


def test_what_is_up_to_date_in_a_read_only_cache_is_found(built: Forge, read_only: Path) -> None:
    assert built.build("--cache", read_only).outcomes() == {"fp32@ada": "reused"}


def test_in_a_read_only_cache_nothing_to_do_is_seen_at_a_glance(
    forge: Forge, mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = mount("size=200m")
    monkeypatch.setenv("ENGINEFORGE_CACHE", str(disk))
    time.sleep(_OLD_ENOUGH)
    assert forge.run("build", "specs").code == 0
    mount("size=200m,ro")
    assert forge.at_a_glance("build")
    forge.model.unlink()
    assert not forge.at_a_glance("build")


def test_an_index_that_a_full_disk_has_no_room_for_stays_as_it_was(
    forge: Forge, mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = mount("size=200m")
    monkeypatch.setenv("ENGINEFORGE_CACHE", str(disk))
    assert forge.run("build", "specs").code == 0
    before = (disk / "index").read_bytes()
    (forge.specs / "net.yaml").touch()
    _fill(disk)
    said = forge.run("plan", "specs")
    assert (said.code, said.out.split()[:2]) == (0, ["up", "to"])
    assert (disk / "index").read_bytes() == before
    assert _litter(disk) == []
    assert not forge.at_a_glance()
    (disk / "filler").unlink()
    time.sleep(_OLD_ENOUGH)
    forge.run("plan", "specs")
    assert forge.at_a_glance()


def test_specs_on_tmpfs_are_never_up_to_date_at_a_glance(
    forge: Forge, mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There a store through a mapping changes bytes, and no stat."""
    monkeypatch.setenv("ENGINEFORGE_CACHE", str(forge.cache))
    specs = mount("size=4m") / "specs"
    shutil.copytree(forge.specs, specs)
    assert forge.run("build", specs).code == 0
    assert forge.run("build", specs).err.startswith("nothing to do")
    assert not forge.at_a_glance("build", specs)


def test_building_into_a_read_only_cache_is_refused(built: Forge, read_only: Path) -> None:
    built.edit("net", "max: [8", "max: [9")
    result = built.run("build", "specs", "--cache", read_only)
    assert result.code == 5
    assert result.err == (
        f"engineforge: the cache '{read_only}' cannot be written: Read-only file system\n"
        "hint: give another one with --cache, or make room\n"
    )


def test_building_into_an_empty_read_only_disk_is_refused(forge: Forge, mount: Mount) -> None:
    disk = mount("size=1m,ro")
    result = forge.run("build", "specs", "--cache", disk / "cache")
    assert result.code == 5
    assert "cannot be written: Read-only file system" in result.err


@pytest.mark.parametrize(("command", "code"), [("plan", 0), ("show", 0), ("verify", 4)])
def test_damage_in_a_read_only_cache_is_said(
    built: Forge, mount: Mount, read_only: Path, command: str, code: int
) -> None:
    mount("size=200m,rw")
    (engine,) = read_only.glob("entries-v1/engine/*/*/model.engine")
    os.truncate(engine, 100)
    mount("size=200m,ro")
    arguments = [] if command == "verify" else ["specs"]
    result = built.run(command, *arguments, "--cache", read_only)
    assert result.code == code
    assert "is corrupt" in result.err
    assert "cannot be moved: Read-only file system" in result.err
