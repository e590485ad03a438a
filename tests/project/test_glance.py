"""A no-op told by stats alone: it says what the long way says, and is over at the least change."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engineforge.project import glance
from engineforge.project.forks import all_say_yes
from engineforge.project.glance import Glance
from engineforge.project.listing import specs_below
from engineforge.store import folders
from engineforge.store.folders import FolderNews, order
from engineforge.store.index import Index, opened
from engineforge.store.known import A_BLOCK, Block, Known, Variant
from tests.conftest import CLASSIC, SPEC, TARGETS, Forge
from tests.models import convnet

Seen = list[tuple[str, str]]


def _seen(root: str = "specs", cache: str = "cache") -> Seen | None:
    """Each variant that is up to date at a glance, with its engine; None unless all are."""
    glance = Glance(root, cache, "all")
    try:
        blocks = glance.all_hold(specs_below(root))
    finally:
        glance.close()
    if blocks is None:
        return None
    return [pair for each in blocks for pair in zip(each.labelled(), each.engines(), strict=True)]


@pytest.fixture
def several(forge: Forge) -> Forge:
    """Three specs, one in a folder below, of a model each; built."""
    for name in ("other", "below/third"):
        model = convnet(forge.specs / "models" / f"{name.replace('/', '-')}.onnx", seed=len(name))
        path = os.path.relpath(model, (forge.specs / name).parent)
        forge.spec(name, SPEC.replace("models/net.onnx", path))
    assert forge.build().code == 0
    return forge


def test_what_was_just_built_is_up_to_date_at_a_glance(several: Forge) -> None:
    seen = _seen()
    assert seen is not None
    assert [label for label, _ in seen] == [
        "below/third/fp32@ada",
        "net/fp32@ada",
        "other/fp32@ada",
    ]
    assert sorted(key for _, key in seen) == sorted(each.parent.name for each in several.engines())


@pytest.mark.parametrize("command", ["build", "plan"])
@pytest.mark.parametrize("path", ["specs", "./specs/", "{root}/specs"])
def test_at_a_glance_and_the_long_way_the_same_is_said(
    several: Forge, command: str, path: str
) -> None:
    folder = path.format(root=several.root)
    quick = several.run(command, folder)
    # With an option it goes the long way.
    cache = os.path.relpath(several.cache) if "{" not in path else several.cache
    assert quick == several.run(command, folder, "--cache", cache)
    assert quick.code == 0
    assert len(quick.out.splitlines()) == 3


def _edited(forge: Forge) -> None:
    forge.edit("net", "max: [8,", "max: [9,")


def _touched(forge: Forge) -> None:
    (forge.specs / "net.yaml").touch()


def _another_target(forge: Forge) -> None:
    forge.edit("targets", "[8.9]", "[12.0]")


def _another_model(forge: Forge) -> None:
    convnet(forge.model, seed=7)


def _no_model(forge: Forge) -> None:
    forge.model.unlink()


def _a_new_spec(forge: Forge) -> None:
    forge.spec("new", SPEC)


def _one_spec_less(forge: Forge) -> None:
    (forge.specs / "other.yaml").unlink()


def _a_spec_of_the_same_name(forge: Forge) -> None:
    shutil.copy(forge.specs / "net.yaml", forge.specs / "net.yml")


def _no_engine(forge: Forge) -> None:
    forge.engines()[0].unlink()


def _no_entry(forge: Forge) -> None:
    shutil.rmtree(forge.engines()[0].parent)


def _a_log_touched(forge: Forge) -> None:
    os.utime(forge.engines()[0].with_name("build.log"))


def _no_plans(forge: Forge) -> None:
    shutil.rmtree(forge.cache / "plans-v1")


def _a_spec_renamed(forge: Forge) -> None:
    (forge.specs / "net.yaml").rename(forge.specs / "ten.yaml")


@pytest.mark.parametrize(
    "change",
    [
        _edited,
        _touched,
        _another_target,
        _another_model,
        _no_model,
        _a_new_spec,
        _one_spec_less,
        _a_spec_of_the_same_name,
        _no_engine,
        _no_entry,
        _a_log_touched,
        _no_plans,
        _a_spec_renamed,
    ],
)
def test_after_any_change_it_is_looked_at_again(
    several: Forge, change: Callable[[Forge], None]
) -> None:
    change(several)
    assert _seen() is None
    long_way = several.run("plan", "specs", "--paranoid")
    again = several.run("plan", "specs")
    assert (again.code, again.out) == (long_way.code, long_way.out)


@pytest.mark.parametrize("change", [_edited, _touched, _a_new_spec, _one_spec_less, _no_engine])
def test_when_that_was_built_it_is_up_to_date_at_a_glance_again(
    several: Forge, change: Callable[[Forge], None]
) -> None:
    change(several)
    assert several.build().code == 0
    assert _seen() is not None
    assert several.build().json["effort"] == {
        "files_hashed": 0,
        "bytes_hashed": 0,
        "specs_parsed": 0,
    }


def test_shares_of_processes_are_as_good_as_one(
    several: Forge, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = _seen()
    monkeypatch.setattr(folders, "A_BLOCK", 1)
    models = sorted(several.specs.glob("models/*.onnx"))
    os.utime(models[0])
    assert several.build().code == 0  # which writes blocks of one spec each
    monkeypatch.setattr(glance, "_A_SHARE", 100)
    monkeypatch.setattr(glance, "processes", lambda: 2)
    asked: list[int] = []

    def counted(ask: Callable[[Any], bool], shares: Sequence[Any]) -> bool:
        asked.append(len(shares))
        return all_say_yes(ask, shares)

    monkeypatch.setattr(glance, "all_say_yes", counted)
    assert _seen() == alone
    assert asked == [2]
    for each in [*models, *several.specs.rglob("*.yaml"), *several.engines()]:
        found = each.stat()
        os.utime(each, ns=(found.st_atime_ns, found.st_mtime_ns + 1))
        assert _seen() is None, each
        os.utime(each, ns=(found.st_atime_ns, found.st_mtime_ns))
        assert several.build().code == 0
        assert _seen() == alone, each


def test_one_changed_spec_is_all_that_is_read_again(several: Forge) -> None:
    _edited(several)
    result = several.build()
    assert sorted(each["outcome"] for each in result.json["variants"]) == [
        "built",
        "reused",
        "reused",
    ]
    assert result.json["effort"]["specs_parsed"] == 2  # it, and the targets


def test_nothing_is_known_to_another_version(several: Forge, tmp_path: Path) -> None:
    code = """
import engineforge
engineforge.__version__ = "9.9.9"
from engineforge.project.glance import Glance
from engineforge.project.listing import specs_below
print(Glance("specs", "cache", "all").all_hold(specs_below("specs")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "None\n"
    assert _seen() is not None


def test_external_data_is_looked_at(forge: Forge) -> None:
    convnet(forge.model, external="net.data")
    assert forge.build().code == 0
    assert _seen() is not None
    os.utime(forge.model.with_name("net.data"))
    assert _seen() is None


def test_a_link_that_leads_elsewhere_is_seen(several: Forge) -> None:
    aside = several.model.with_name("aside.onnx")
    several.model.rename(aside)
    several.model.symlink_to(aside.name)
    assert several.build().code == 0
    assert _seen() is not None
    several.model.unlink()
    several.model.symlink_to("other.onnx")
    assert _seen() is None


def test_a_build_registers_again_what_is_no_longer_registered(several: Forge) -> None:
    several.run("build", "specs")
    (record,) = (several.cache / "projects").iterdir()
    before = record.read_bytes()
    record.unlink()
    several.run("build", "specs")
    assert record.read_bytes() == before


def test_plans_that_no_build_registered_are_registered_by_the_next(several: Forge) -> None:
    """A plan that finds an old state of a spec up to date registers nothing."""
    old = (several.specs / "net.yaml").read_text()
    (record,) = (several.cache / "projects").iterdir()
    of_old = record.read_bytes()
    _edited(several)
    several.build()
    assert record.read_bytes() != of_old
    several.spec("net", old)
    several.run("plan", "specs")
    assert _seen() is not None
    several.run("build", "specs")
    assert record.read_bytes() == of_old


def test_truncated_at_any_byte_nothing_is_seen(several: Forge) -> None:
    index = several.cache / "index"
    data = index.read_bytes()
    believed = []
    for end in range(len(data)):
        index.write_bytes(data[:end])
        if _seen() is not None:
            believed.append(end)
    assert believed == []


def test_with_any_bit_flipped_nothing_else_is_seen(several: Forge) -> None:
    index = several.cache / "index"
    data, seen = index.read_bytes(), _seen()

    @settings(deadline=None, database=None, max_examples=300)
    @given(bit=st.integers(0, len(data) * 8 - 1))
    def flip(bit: int) -> None:
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        index.write_bytes(flipped)
        assert _seen() in (None, seen)

    flip()


def test_folders_that_share_a_cache_know_their_own(several: Forge) -> None:
    other = several.root / "twin" / "specs"
    shutil.copytree(several.specs, other)
    assert several.run("build", other, "--cache", "cache").code == 0
    assert _seen() is not None
    assert _seen(str(other)) is not None
    (other / "net.yaml").touch()
    assert _seen() is not None
    assert _seen(str(other)) is None


def test_specs_of_two_builds_at_once_are_both_known(forge: Forge) -> None:
    names = [f"net{number}" for number in range(6)]
    (forge.specs / "net.yaml").unlink()
    for number, name in enumerate(names):
        convnet(forge.specs / "models" / f"{name}.onnx", seed=number)
        forge.spec(name, SPEC.replace("models/net.onnx", f"models/{name}.onnx"))
    running = [forge.process("build", f"specs/{name}.yaml") for name in names]
    assert [each.wait() for each in running] == [0] * 6
    for each in running:
        each.communicate()
    assert _seen() is not None
    # Which plans are registered nobody can say before all were looked at.
    forge.run("build", "specs")
    glance = Glance("specs", "cache", "all")
    assert glance.registered
    glance.close()


_NETWORK = """\
model:
  source: {network: {function: 'lenet:build', files: [widths.py]}}
inputs:
  image: {min: [1, 1, 8, 8], opt: [8, 1, 8, 8], max: [32, 1, 8, 8]}
targets: [ada]
variants:
  fp32: {precision: source}
"""
_LENET = """\
from widths import WIDTH


def build(network, trt, weights):
    x = network.add_input("image", trt.float32, (-1, 1, 8, 8))
    out = network.add_activation(x, trt.ActivationType.RELU).get_output(0)
    network.mark_output(out)
"""


def test_code_is_looked_at_as_far_as_it_was_found_to_reach(forge: Forge) -> None:
    """Which files it is may change though none of them does: another one comes to stand before."""
    forge.spec("net", _NETWORK)
    (forge.specs / "lenet.py").write_text(_LENET)
    (forge.specs / "widths.py").write_text("WIDTH = 8\n")
    assert forge.build().code == 0
    assert _seen() is not None
    (forge.specs / "lenet").mkdir()
    (forge.specs / "lenet" / "__init__.py").write_text(_LENET)
    assert _seen() is None


def test_samples_that_come_into_a_folder_are_seen(forge: Forge) -> None:
    needed = "needs: python -m pip install 'engineforge[precision]'"
    pytest.importorskip("onnxruntime", reason=needed)
    calibrated = "{precision: int8, calibration: {data: samples}}"
    forge.spec("net", SPEC.replace("{precision: fp32}", calibrated))
    samples = forge.specs / "samples"
    samples.mkdir()
    for name in ("a", "b"):
        images = np.random.default_rng(ord(name)).standard_normal((8, 3, 16, 16))
        np.savez(samples / f"{name}.npz", image=images.astype(np.float32))
    assert forge.build().code == 0
    assert _seen() is not None
    shutil.copy(samples / "a.npz", samples / "c.npz")
    assert _seen() is None


def test_a_package_that_is_elsewhere_now_is_seen(
    forge: Forge, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("one", "two"):
        package = forge.root / place / "forged_models"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        shutil.copy(forge.model, package / "net.onnx")
    monkeypatch.syspath_prepend(forge.root / "one")
    forge.edit("net", "{path: models/net.onnx}", "{package: forged_models, path: net.onnx}")
    assert forge.build().code == 0
    assert _seen() is not None
    monkeypatch.syspath_prepend(forge.root / "two")
    assert _seen() is None


def test_of_what_this_host_cannot_build_nothing_is_read_until_the_host_is_another(
    forge: Forge, monkeypatch: pytest.MonkeyPatch
) -> None:
    forge.spec("targets", TARGETS + CLASSIC)
    forge.edit("net", "[ada]", "[ada, h200]")
    assert forge.build().outcomes() == {"fp32@ada": "built", "fp32@h200": "skipped"}

    def parsed() -> int:
        return int(forge.build().json["effort"]["specs_parsed"])

    assert parsed() == 0
    with (forge.cache / "index").open("rb") as file:
        before = file.read()
    assert forge.run("plan", "specs").code == 0
    assert (forge.cache / "index").read_bytes() == before
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert parsed() == 2
    assert parsed() == 0


def test_a_folder_of_a_strange_name_spoils_nothing(several: Forge) -> None:
    strange = several.root / "two\nlines" / "specs"
    shutil.copytree(several.specs, strange)
    assert several.run("build", strange, "--cache", "cache").code == 0
    assert _seen() is not None
    assert _seen(str(strange)) is None


def test_a_cache_remembers_some_folders_and_the_newest_always(several: Forge) -> None:
    index = Index(several.cache)
    for number in range(100):
        news = FolderNews(
            root=f"/gone/{number}", reading="1", targets="", specs={}, registered="-", seen=None
        )
        index.know_folder(news)
        index.save(several.cache / "staging")
    with opened(several.cache / "index") as file:
        assert len(file.folders) == 64
        assert "/gone/99" in file.folders


def test_blocks_are_split_and_merged_as_specs_come_and_go(tmp_path: Path) -> None:
    def known(name: str) -> Known:
        return Known(name, "", [], [Variant("v", "t", bytes([1]) * 32)], array("q", [0] * 5))

    (tmp_path / "staging").mkdir()
    expected: set[str] = set()
    for step, count in ((1, 700), (7, 100), (-1, 500), (1, 1200)):
        index = Index(tmp_path)
        names = [
            f"{number % 5}/net-{number:05}.yaml"
            for number in range(0, abs(step) * count, abs(step))
        ]
        expected = expected - set(names) if step < 0 else expected | set(names)
        index.know_folder(
            FolderNews(
                root="/specs",
                reading="1",
                targets="",
                specs={name: known(name) if step > 0 else None for name in names},
                registered=None,
                seen=None,
            )
        )
        index.save(tmp_path / "staging")
        with opened(tmp_path / "index") as file:
            blocks = [Block(file.read(part)) for part in file.folders["/specs"].blocks]
        found = [spec for block in blocks for spec in block.specs]
        assert found == sorted(expected, key=order)
        assert max(len(block.specs) for block in blocks) <= 2 * A_BLOCK
