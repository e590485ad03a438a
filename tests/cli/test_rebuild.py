"""`engineforge verify --rebuild` with TensorRT-RTX: no timing caches, and no GPU here."""

from __future__ import annotations

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
    result = forge.run("verify", "--rebuild")
    assert result.code == 0
    assert "skipped: it is not built" in result.out


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
