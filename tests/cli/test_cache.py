"""`engineforge cache`: what is there, whether it is whole, and what is pinned."""

from __future__ import annotations

import pytest

from tests.conftest import Forge


def test_stats_count_entries_and_bytes_by_stage(built: Forge) -> None:
    found = built.run("cache", "stats", "--json").json
    (engine,) = built.engines()
    assert found["stages"]["engine"]["entries"] == 1
    assert found["stages"]["engine"]["bytes"] > engine.stat().st_size
    assert found["stages"]["onnx"]["entries"] == 1
    assert found["records"] == 1
    assert found["engines"] == {"net/fp32@ada": 1}
    assert found["pins"] == []
    assert found["timings"] == {"count": 0, "bytes": 0}
    assert found["file_system"]["locks"] in ("reliable", "advisory")
    assert "trash" not in found


def test_stats_tell_of_the_trash_and_of_pins(built: Forge) -> None:
    built.run("cache", "pin", "net/fp32@ada")
    built.edit("net", "max: [8, 3", "max: [9, 3")
    built.build()
    built.run("cache", "pin", "net/fp32@ada")
    built.run("gc", "specs")
    found = built.run("cache", "stats", "--json").json
    assert found["trash"]["count"] == 2
    (pin,) = found["pins"]
    assert pin["label"] == "net/fp32@ada"
    out = built.run("cache", "stats").out
    assert "engines of net/fp32@ada: 1" in out
    assert "pinned net/fp32@ada since 20" in out


def test_verify_hashes_all_and_finds_what_rotted(built: Forge) -> None:
    assert built.run("cache", "verify").out == "2 entries hashed, 0 corrupt\n"
    (engine,) = built.engines()
    data = bytearray(engine.read_bytes())
    data[len(data) // 2] ^= 1
    engine.chmod(0o644)
    engine.write_bytes(data)
    result = built.run("cache", "verify", "--json")
    assert result.code == 4
    assert result.json["entries"] == 2
    assert len(result.json["faults"]) == 1


@pytest.mark.parametrize("action", ["pin", "unpin"])
def test_a_label_must_exist(built: Forge, action: str) -> None:
    built.run("cache", "pin", "net/fp32@ada")
    result = built.run("cache", action, "net/fp32@adda")
    assert result.code == 2
    assert "there is no 'net/fp32@adda'\nhint: did you mean 'net/fp32@ada'?" in result.err


def test_what_is_not_built_cannot_be_pinned(forge: Forge) -> None:
    result = forge.run("cache", "pin", "net/fp32@ada")
    assert result.code == 1
    assert "there is nothing to hold" in result.err


def test_pins_are_printed_when_they_change(built: Forge) -> None:
    assert built.run("cache", "pin", "net/fp32@ada").out.startswith("pinned net/fp32@ada since 20")
    (pin,) = built.run("cache", "pin", "net/fp32@ada", "--json").json
    assert pin["label"] == "net/fp32@ada"
    assert built.run("cache", "unpin", "net/fp32@ada").out == ""


@pytest.mark.parametrize("action", ["stats", "verify"])
def test_there_must_be_a_cache(forge: Forge, action: str) -> None:
    result = forge.run("cache", action, "--cache", "nowhere")
    assert result.code == 2
    assert "there is no cache at 'nowhere'" in result.err
