"""`engineforge cache export`, `import` and `push`: entries to other machines."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Forge


@pytest.fixture
def archive(built: Forge) -> Path:
    file = built.root / "night.tar"
    result = built.run("cache", "export", file)
    assert result.code == 0
    assert result.out.startswith(f"{file}: 2 entries of 1 plan, ")
    return file


def test_what_is_exported_is_up_to_date_where_it_is_imported(built: Forge, archive: Path) -> None:
    imported = built.run("cache", "import", archive, "--cache", "air-gapped")
    assert imported.code == 0
    assert imported.out.startswith("2 entries of 1 plan, ")
    assert built.build("--cache", "air-gapped").json["variants"][0]["why"] == "nothing changed"


def test_importing_again_changes_nothing(built: Forge, archive: Path) -> None:
    built.run("cache", "import", archive, "--cache", "air-gapped")
    again = built.run("cache", "import", archive, "--cache", "air-gapped", "--json")
    assert (again.json["entries"], again.json["known"]) == (0, 2)


def test_a_damaged_archive_is_refused(built: Forge, archive: Path) -> None:
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 1
    archive.write_bytes(data)
    refused = built.run("cache", "import", archive, "--cache", "air-gapped")
    assert refused.code == 4
    assert not list((built.root / "air-gapped").glob("entries-v1/*/*/*"))


def test_what_is_stale_is_left_out_and_said(built: Forge) -> None:
    built.spec(
        "other", (built.specs / "net.yaml").read_text() + "  low: {builder: {tf32: false}}\n"
    )
    result = built.run("cache", "export", built.root / "some.tar")
    assert result.code == 1
    assert "other/low@ada: left out, as it is not built, or not up to date" in result.err
    assert result.out.startswith(f"{built.root / 'some.tar'}: ")


def test_with_nothing_built_there_is_nothing_to_export(forge: Forge) -> None:
    result = forge.run("cache", "export", forge.root / "none.tar")
    assert result.code == 2
    assert "nothing is built and up to date" in result.err
    assert not (forge.root / "none.tar").exists()


def test_a_file_that_is_no_archive_is_refused(forge: Forge) -> None:
    result = forge.run("cache", "import", forge.specs / "net.yaml")
    assert result.code == 4
    assert "net.yaml" in result.err


def test_what_is_up_to_date_is_pushed_when_asked(built: Forge) -> None:
    pytest.importorskip("obstore", reason="needs: python -m pip install 'engineforge[remote]'")
    result = built.run("cache", "push", "--remote", built.root / "far")
    assert (result.code, result.out) == (0, "pushed  net/fp32@ada\n")
    other = built.build("--cache", "two", "--remote", str(built.root / "far"))
    assert other.outcomes() == {"fp32@ada": "reused"}


def test_there_must_be_somewhere_to_push_to(built: Forge) -> None:
    result = built.run("cache", "push")
    assert result.code == 2
    assert "remote: {url: s3://" in result.err
