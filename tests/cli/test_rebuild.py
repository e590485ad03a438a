"""`engineforge verify --rebuild` with TensorRT-RTX: no timing caches, and no GPU here."""

from __future__ import annotations

import pytest

from tests.conftest import Forge


def test_a_small_engine_is_rebuilt_to_the_last_bit(built: Forge) -> None:
    before = [path.stat().st_ino for path in built.engines()]
    result = built.run("verify", "--rebuild", "--json")
    assert result.code == 0, result.err
    (found,) = result.json["variants"]
    assert (found["outcome"], found["level"]) == ("rebuilt", "bytes")
    assert found["seconds"] > 0
    assert found["seconds_before"] > 0
    assert [path.stat().st_ino for path in built.engines()] == before, "the entry stays as it was"


def test_an_engine_of_other_bytes_is_said_to_be_another(built: Forge) -> None:
    """What is stored is taken from the build of another network, under this one's key."""
    (engine,) = built.engines()
    data = bytearray(engine.read_bytes())
    data[len(data) // 2] ^= 1
    _publish_instead(built, bytes(data))
    result = built.run("verify", "--rebuild")
    assert result.code == 1, result.out
    assert "NOT the same: other bytes" in result.out
    assert "no GPU to run" in result.out


def test_generated_names_may_be_numbered_otherwise(built: Forge) -> None:
    (engine,) = built.engines()
    data = engine.read_bytes()
    assert b"__mye" in data
    _publish_instead(built, data.replace(b"__mye1", b"__mye7"))
    result = built.run("verify", "--rebuild")
    assert result.code == 0, result.out
    assert "only names that TensorRT generates are numbered otherwise" in result.out


def test_what_is_not_built_is_skipped(forge: Forge) -> None:
    forge.cache.mkdir()
    result = forge.run("verify", "--rebuild")
    assert result.code == 0
    assert "skipped: it is not built" in result.out


def test_a_cache_that_is_not_there_is_not_made(forge: Forge) -> None:
    result = forge.run("verify", "--rebuild")
    assert (result.code, "there is no cache at" in result.err) == (2, True)
    assert not forge.cache.exists()


def test_an_engine_that_is_corrupt_is_no_success(built: Forge) -> None:
    (engine,) = built.engines()
    engine.chmod(0o644)
    engine.write_bytes(engine.read_bytes() + b"x")
    assert built.run("verify", "--rebuild").code == 4


@pytest.mark.parametrize("option", [["--gpus", "0"], ["-j", "2"], ["--keep-going"]])
def test_what_is_for_rebuilding_goes_with_it(built: Forge, option: list[str]) -> None:
    result = built.run("verify", *option)
    assert result.code == 2
    assert "goes with --rebuild" in result.err


def test_a_variant_alone_can_be_hashed(built: Forge) -> None:
    assert built.run("verify", "--variant", "nope").code == 2
    assert "3 entries hashed" not in built.run("verify", "--variant", "fp32").err


def test_a_broken_timing_cache_is_found(built: Forge) -> None:
    (built.cache / "timing-v1").mkdir()
    (built.cache / "timing-v1" / "abc.cache").write_text("garbage")
    result = built.run("verify")
    assert result.code == 4
    assert "abc.cache': it does not begin as one" in result.err
    assert built.run("verify").code == 0


def _publish_instead(forge: Forge, data: bytes) -> None:
    """Put an engine with these bytes into the store under the key of the one that is there."""
    import shutil

    from engineforge.store.local import LocalStore

    store = LocalStore(forge.cache)
    (entry,) = store.entries("engine")
    with store.session() as session, session.staged() as staged:
        for name in entry.manifest.files:
            shutil.copy(entry.file(name), staged / name)
            (staged / name).chmod(0o644)
        (staged / "model.engine").write_bytes(data)
        shutil.rmtree(entry.path)
        store.publish(
            staged,
            stage="engine",
            key_document=entry.manifest.key_document,
            digests={},
            record=entry.manifest.record,
        )
