"""Which engines are refused, with what message, before any of TensorRT sees a byte."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from engineforge.digest import Digest, digest_bytes, digest_file
from engineforge.errors import EngineForgeError, HostUnfit, StoreCorrupt
from engineforge.runtime.cuda import device_count
from engineforge.runtime.engine import Engine
from engineforge.runtime.engine_file import EngineRefused, plan_version, read_engine
from tests.conftest import Forge

VERSION = "1.7.1.116"


def has_gpu() -> bool:
    try:
        return device_count() > 0
    except HostUnfit:
        return False


def plan(version: tuple[int, ...] = (8, 6, 0, 12)) -> bytes:
    """The head that NVIDIA's `--getPlanVersionOnly` reads, and something behind it."""
    return b"ftrt" + bytes(20) + bytes(version) + b"weights"


def rewritten(entry: Path, data: bytes) -> None:
    engine = entry / "model.engine"
    engine.chmod(0o644)
    engine.write_bytes(data)


@pytest.fixture
def entry(built: Forge) -> Path:
    """The entry of a real TensorRT-RTX engine, in a folder that may be spoilt."""
    (engine,) = built.engines()
    copy = built.root / "entry"
    shutil.copytree(engine.parent, copy)
    copy.chmod(0o755)
    return copy


def test_an_entry_is_read_with_what_its_manifest_says(entry: Path) -> None:
    file = read_engine(entry)
    assert file.backend == "tensorrt_rtx"
    assert file.recipe["toolchain"]["version"] == VERSION
    assert file.data.tobytes() == (entry / "model.engine").read_bytes()


def test_an_engine_file_is_verified_by_the_manifest_beside_it(entry: Path) -> None:
    assert read_engine(entry / "model.engine").sha256 == digest_file(entry / "model.engine")


def test_the_bytes_kept_are_those_that_were_hashed(entry: Path) -> None:
    file = read_engine(entry)
    rewritten(entry, b"something else now")
    assert digest_bytes(file.data.tobytes()) == file.sha256


def test_a_changed_byte_is_refused(entry: Path) -> None:
    data = bytearray((entry / "model.engine").read_bytes())
    data[len(data) // 2] ^= 1
    rewritten(entry, bytes(data))
    with pytest.raises(StoreCorrupt, match="it was changed, or is another file"):
        read_engine(entry)


@pytest.mark.parametrize(("keep", "said"), [(-1, "truncated"), (0, "truncated")])
def test_a_truncated_engine_is_refused(entry: Path, keep: int, said: str) -> None:
    rewritten(entry, (entry / "model.engine").read_bytes()[:keep])
    with pytest.raises(StoreCorrupt, match=said):
        read_engine(entry)


def test_an_engine_with_something_appended_is_refused(entry: Path) -> None:
    rewritten(entry, (entry / "model.engine").read_bytes() + b"x")
    with pytest.raises(StoreCorrupt, match="longer than it was"):
        read_engine(entry)


def test_a_changed_manifest_is_refused(entry: Path) -> None:
    manifest = entry / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_text(manifest.read_text().replace(VERSION, "1.7.1.117"))
    with pytest.raises(StoreCorrupt, match=r"manifest\.json"):
        read_engine(entry)


def test_a_manifest_of_another_file_is_refused(entry: Path) -> None:
    (entry / "model.engine").rename(entry / "other.engine")
    with pytest.raises(EngineRefused, match=r"of another file: of .*'model\.engine'"):
        read_engine(entry / "other.engine")


def test_a_file_of_another_stage_is_no_engine(built: Forge) -> None:
    (model,) = built.cache.glob("entries-v1/onnx/*/*/model.onnx")
    with pytest.raises(EngineRefused, match="of the stage 'onnx', and no engine"):
        read_engine(model)


def test_without_manifest_and_digest_nothing_is_loaded(tmp_path: Path) -> None:
    file = tmp_path / "some.engine"
    file.write_bytes(plan())
    with pytest.raises(EngineRefused, match="to verify it by") as error:
        read_engine(file)
    assert "give the sha256" in (error.value.hint or "")


def test_a_digest_takes_the_place_of_a_manifest(tmp_path: Path) -> None:
    file = tmp_path / "some.engine"
    file.write_bytes(plan())
    assert read_engine(file, sha256=digest_bytes(plan())).backend == "tensorrt"


def test_another_file_than_the_digest_says_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "some.engine"
    file.write_bytes(plan())
    with pytest.raises(EngineRefused, match="it was changed, or is another file"):
        read_engine(file, sha256=digest_bytes(b"what was meant"))


def test_a_digest_that_its_manifest_does_not_have_is_refused(entry: Path) -> None:
    with pytest.raises(EngineRefused, match="was asked for"):
        read_engine(entry, sha256=digest_bytes(b"what was meant"))


def test_bytes_of_no_known_library_need_its_name(tmp_path: Path) -> None:
    file = tmp_path / "some.engine"
    file.write_bytes(b"nothing known")
    digest = digest_bytes(b"nothing known")
    with pytest.raises(EngineRefused, match="which library built it") as error:
        read_engine(file, sha256=digest)
    assert "tensorrt_rtx" in (error.value.hint or "")
    assert read_engine(file, sha256=digest, backend="tensorrt_rtx").backend == "tensorrt_rtx"


def test_another_backend_than_the_manifest_has_is_refused(entry: Path) -> None:
    with pytest.raises(EngineRefused, match="built with tensorrt_rtx, and tensorrt was asked"):
        read_engine(entry, backend="tensorrt")


def test_another_version_of_the_library_is_refused(entry: Path) -> None:
    file = read_engine(entry)
    file.check_version(VERSION)
    with pytest.raises(EngineRefused, match=f"{VERSION}, and 1.8.0.1 is loaded"):
        file.check_version("1.8.0.1")


def test_a_classic_plan_of_another_version_is_refused_by_its_head(tmp_path: Path) -> None:
    file = tmp_path / "some.engine"
    file.write_bytes(plan())
    read = read_engine(file, sha256=digest_bytes(plan()))
    read.check_version("8.6.0")  # all that TensorRT 8 knows of its own version
    with pytest.raises(EngineRefused, match=r"by its header .* 8\.6\.0\.12, and 10\.13\.3\.9"):
        read.check_version("10.13.3.9")


@pytest.mark.parametrize("data", [b"", b"ftrt", b"vtrt" + bytes(40), b"ftrt\1" + bytes(40)])
def test_other_heads_tell_no_version(data: bytes) -> None:
    assert plan_version(np.frombuffer(data, np.uint8)) is None


def test_another_compute_capability_is_refused(entry: Path) -> None:
    file = read_engine(entry)
    file.check_gpu("NVIDIA L4", "8.9")
    with pytest.raises(EngineRefused, match=r"capability 8\.9, and NVIDIA H200 has 9\.0"):
        file.check_gpu("NVIDIA H200", "9.0")


@pytest.mark.skipif(has_gpu(), reason="claims what is said where there is no GPU")
def test_a_host_without_driver_is_told_so_before_tensorrt_loads(entry: Path) -> None:
    with pytest.raises(HostUnfit, match="this host has no NVIDIA"):
        Engine.load(entry)


def test_a_spoilt_engine_is_told_before_a_missing_gpu(entry: Path) -> None:
    rewritten(entry, b"short")
    with pytest.raises(StoreCorrupt):
        Engine.load(entry)


def test_refusals_are_errors_that_users_see(tmp_path: Path) -> None:
    assert issubclass(EngineRefused, EngineForgeError)
    with pytest.raises(FileNotFoundError):
        read_engine(tmp_path / "nothing.engine", sha256=Digest("sha256:" + "0" * 64))


def test_the_manifest_names_all_that_is_checked(entry: Path) -> None:
    recipe = json.loads((entry / "manifest.json").read_text())["key_document"]["recipe"]
    assert recipe["target"]["compute_capabilities"] == ["8.9"]
    assert recipe["toolchain"]["backend"] == "tensorrt_rtx"
