"""A build with nothing to do never claims what a plan that trusts nothing would not; and it ends as
any other command does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import SPEC, Forge
from tests.models import convnet
from tests.store import web_server


def _rewritten(path: Path, data: bytes) -> None:
    """In place, with as many bytes as before, and the time of before."""
    before = path.stat()
    assert len(data) == before.st_size
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(data)
    path.chmod(before.st_mode)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    _rewritten(path, bytes(data))


@pytest.fixture
def linked(forge: Forge) -> Forge:
    """Built, with its models in a folder that a link leads to, and others beside it."""
    forge.model.parent.rename(forge.specs / "these")
    (forge.specs / "models").symlink_to("these")
    convnet(forge.specs / "those" / "net.onnx", seed=7)
    assert forge.run("build", "specs").code == 0
    assert forge.at_a_glance("build")
    return forge


def _a_weight(forge: Forge) -> None:
    _flipped(forge.specs / "these" / "net.onnx")


def _a_shape(forge: Forge) -> None:
    spec = forge.specs / "net.yaml"
    _rewritten(spec, spec.read_bytes().replace(b"max: [8", b"max: [9"))


def _where_the_link_leads(forge: Forge) -> None:
    (forge.specs / "models").unlink()
    (forge.specs / "models").symlink_to("those")


def _the_folder_that_it_leads_to(forge: Forge) -> None:
    (forge.specs / "these").rename(forge.specs / "aside")
    (forge.specs / "those").rename(forge.specs / "these")


def _an_engine_cut_short(forge: Forge) -> None:
    (engine,) = forge.engines()
    engine.chmod(0o644)
    os.truncate(engine, 100)
    engine.chmod(0o444)


def _an_engine_by_a_bit(forge: Forge) -> None:
    (engine,) = forge.engines()
    _flipped(engine)


def _an_entry_without_its_log(forge: Forge) -> None:
    (engine,) = forge.engines()
    engine.with_name("build.log").unlink()


def _what_was_collected(forge: Forge) -> None:
    """Nothing needed it for a while, and now something does."""
    spec = forge.specs / "net.yaml"
    old = spec.read_text()
    forge.edit("net", "max: [8", "max: [9")
    assert forge.run("build", "specs").code == 0
    collected = forge.run("gc", "specs", "--grace", "0s")
    assert collected.code == 0, collected.err
    assert len(forge.engines()) == 1
    spec.write_text(old)


@pytest.mark.parametrize(
    "change",
    [
        _a_weight,
        _a_shape,
        _where_the_link_leads,
        _the_folder_that_it_leads_to,
        _an_engine_cut_short,
        _an_engine_by_a_bit,
        _an_entry_without_its_log,
        _what_was_collected,
    ],
)
def test_what_makes_it_stale_is_never_claimed_to_be_up_to_date(
    linked: Forge, change: Callable[[Forge], None]
) -> None:
    change(linked)
    assert not linked.at_a_glance()
    said = linked.run("plan", "specs")
    assert said.out.startswith("stale ")
    assert said.out == linked.run("plan", "specs", "--paranoid").out


def test_whichever_text_a_spec_has_the_engine_that_is_named_is_its(built: Forge) -> None:
    """Written again right after each plan, in as many bytes and with the time of before."""
    spec = built.specs / "net.yaml"
    texts = [spec.read_bytes(), spec.read_bytes().replace(b"max: [8", b"max: [9")]
    named = []
    for text in texts:
        _rewritten(spec, text)
        assert built.build().code == 0
        named.append(built.run("plan", "specs").out)
    assert named[0] != named[1]
    for number in range(30):
        _rewritten(spec, texts[number % 2])
        assert built.run("plan", "specs").out == named[number % 2]


@pytest.mark.parametrize("name", ["engineforge.yaml", "environments.yaml"])
def test_what_no_engine_depends_on_may_change(built: Forge, name: str) -> None:
    (built.specs / name).write_text("{}\n")
    assert built.at_a_glance("build")
    said = built.run("plan", "specs")
    assert said == built.run("plan", "specs", "--paranoid")


def test_another_cache_is_asked_for_itself(built: Forge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINEFORGE_CACHE", "elsewhere")
    assert not built.at_a_glance()
    assert built.run("plan", "specs").out.startswith("stale ")
    monkeypatch.setenv("ENGINEFORGE_CACHE", "cache")
    assert built.at_a_glance()


def test_a_lock_file_that_says_otherwise_is_seen(forge: Forge, tmp_path: Path) -> None:
    shutil.move(forge.model, tmp_path / "one.onnx")
    convnet(tmp_path / "two.onnx", seed=7)
    with web_server.site() as site:
        site.files["/net.onnx"] = (tmp_path / "one.onnx").read_bytes()
        forge.spec("net", SPEC.replace("path: models/net.onnx", f"url: '{site.url}/net.onnx'"))
        assert forge.run("lock", "specs").code == 0
        assert forge.run("build", "specs").code == 0
        assert forge.at_a_glance("build")
        site.files["/net.onnx"] = (tmp_path / "two.onnx").read_bytes()
        assert forge.run("lock", "specs", "--update").code == 0
    assert not forge.at_a_glance()
    said = forge.run("plan", "specs")
    assert said.out.startswith("stale ")
    assert said.out == forge.run("plan", "specs", "--paranoid").out


def test_a_reader_that_goes_away_is_not_success(built: Forge) -> None:
    assert built.at_a_glance("build")
    command = f"{sys.executable} -m engineforge build specs | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_full_output_is_said(built: Forge) -> None:
    assert built.at_a_glance("build")
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "engineforge", "build", "specs"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 5
    assert done.stderr == b"engineforge: the output: No space left on device\n"


def test_from_a_folder_that_is_gone_there_is_nothing_to_build(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    command = f"cd gone && rmdir ../gone && {sys.executable} -m engineforge build"
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        2,
        "engineforge: 'specs' does not exist",
    )
