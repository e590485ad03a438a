"""Several machines, each with a cache of its own, and one store that they share."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from engineforge.store.far.remote import Remote
from engineforge.store.local import LocalStore
from tests.conftest import Forge, Result
from tests.runtime import installed

pytest.importorskip("obstore", reason="needs: python -m pip install 'engineforge[remote]'")

_OF_AN_H200 = """\
model: {source: {path: models/net.onnx}}
inputs: {x: {min: [1, 4], opt: [2, 4], max: [8, 4]}}
targets: [h200]
variants: {fp32: {precision: fp32}}
"""


@pytest.fixture
def far(forge: Forge) -> Path:
    """A remote store in a folder, named in engineforge.yaml."""
    forge.spec("engineforge", "remote: {url: ../far, push: always}\n")
    return forge.root / "far"


def build(forge: Forge, cache: str, *args: str) -> Result:
    """What the machine with this cache does."""
    return forge.build("--cache", cache, *args)


def engine_bytes(forge: Forge, cache: str) -> list[bytes]:
    return [
        path.read_bytes() for path in (forge.root / cache).glob("entries-v1/engine/*/*/*.engine")
    ]


@pytest.mark.usefixtures("far")
def test_what_one_machine_has_built_the_next_one_does_not(forge: Forge) -> None:
    assert build(forge, "one").outcomes() == {"fp32@ada": "built"}
    second = build(forge, "two")
    assert second.outcomes() == {"fp32@ada": "reused"}
    assert second.json["variants"][0]["why"] == "built elsewhere, from far"
    assert "net/fp32@ada: fetching" in second.err
    assert engine_bytes(forge, "one") == engine_bytes(forge, "two")
    assert LocalStore(forge.root / "two").stages() == ["engine"]


@pytest.mark.usefixtures("far")
def test_what_came_from_elsewhere_is_up_to_date_afterwards(forge: Forge) -> None:
    build(forge, "one")
    build(forge, "two")
    third = build(forge, "two", "--no-remote")
    assert third.json["variants"][0]["why"] == "nothing changed"
    assert third.json["effort"] == {"files_hashed": 0, "bytes_hashed": 0, "specs_parsed": 0}


def test_an_engine_is_fetched_where_it_cannot_be_built(forge: Forge, far: Path) -> None:
    forge.spec("targets", installed.TARGET)
    forge.spec("net", _OF_AN_H200)
    installed.model(forge.model)
    for _ in range(2):  # the second time it is remembered
        assert build(forge, "two").outcomes() == {"fp32@h200": "skipped"}
    forge.build("--prepare", "--no-remote")
    installed.put_engine(forge, "fp32", 0)
    store = LocalStore(forge.cache)
    (record,) = store.plan_records("")
    (imported,) = store.entries("onnx")
    whole = replace(record, entries={**record.entries, "onnx": imported.manifest.key})
    Remote.open(str(far), environment={}).push_record(store, whole)
    assert build(forge, "two").outcomes() == {"fp32@h200": "reused"}
    assert build(forge, "two", "--no-remote").outcomes() == {"fp32@h200": "reused"}


@pytest.mark.usefixtures("far")
def test_one_that_differs_is_named_by_what_differs(forge: Forge) -> None:
    build(forge, "one")
    forge.edit("net", "{precision: fp32}", "{precision: fp32, builder: {tf32: false}}")
    explained = forge.run("plan", "specs", "--explain", "--cache", "two")
    first, second = explained.out.splitlines()
    assert "never built here; the nearest in far differs" in first
    assert second.strip() == "builder.tf32 true → false"


@pytest.mark.usefixtures("far")
def test_one_that_is_there_is_said_to_be(forge: Forge) -> None:
    build(forge, "one")
    explained = forge.run("plan", "specs", "--explain", "--cache", "two")
    assert "never built here, but elsewhere: it is in far" in explained.out


def test_without_explain_no_other_machine_is_asked(forge: Forge, far: Path) -> None:
    build(forge, "one")
    assert far.exists()
    assert "far" not in forge.run("plan", "specs", "--cache", "two").out


@pytest.mark.parametrize(
    ("push", "ci", "pushed"),
    [
        ("always", False, True),
        ("ci", False, False),
        ("ci", True, True),
        ("never", True, False),
    ],
)
def test_who_pushes_is_a_policy(
    forge: Forge, monkeypatch: pytest.MonkeyPatch, push: str, ci: bool, pushed: bool
) -> None:
    monkeypatch.setenv("CI", "true") if ci else monkeypatch.delenv("CI", raising=False)
    forge.spec("engineforge", f"remote: {{url: ../far, push: {push}}}\n")
    assert build(forge, "one").code == 0
    assert any((forge.root / "far").rglob("*.json")) == pushed


def test_the_command_line_decides_before_the_file(forge: Forge, far: Path) -> None:
    other = forge.root / "other"
    build(forge, "one", "--remote", str(other), "--push", "always")
    assert any(other.rglob("*.json"))
    assert not far.exists()


def test_the_environment_decides_before_the_file(
    forge: Forge, far: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = forge.root / "other"
    monkeypatch.setenv("ENGINEFORGE_REMOTE", str(other))
    build(forge, "one")
    assert any(other.rglob("*.json"))
    assert not far.exists()


def test_what_is_there_is_not_taken_with_no_remote(forge: Forge, far: Path) -> None:
    build(forge, "one")
    assert far.exists()
    assert build(forge, "two", "--no-remote").outcomes() == {"fp32@ada": "built"}


def test_a_damaged_engine_is_caught_built_again_and_replaced(forge: Forge, far: Path) -> None:
    build(forge, "one")
    (engine,) = engine_bytes(forge, "one")
    blobs = [path for path in far.rglob("*") if path.is_file() and path.read_bytes() == engine]
    assert len(blobs) == 1
    blobs[0].chmod(0o644)
    blobs[0].write_bytes(engine[:-1] + bytes([engine[-1] ^ 1]))
    second = build(forge, "two")
    assert second.outcomes() == {"fp32@ada": "built"}
    assert "corrupt" in second.err
    assert any((far / "quarantine").rglob("*"))
    third = build(forge, "three")
    assert third.outcomes() == {"fp32@ada": "reused"}
    assert "corrupt" not in third.err


@pytest.mark.usefixtures("far")
def test_a_damaged_engine_here_is_not_handed_out_for_one_from_elsewhere(forge: Forge) -> None:
    build(forge, "one")
    (engine,) = engine_bytes(forge, "one")
    (path,) = (forge.root / "one").glob("entries-v1/engine/*/*/model.engine")
    shutil.rmtree(forge.root / "one" / "plans-v1")
    path.chmod(0o644)
    path.write_bytes(engine[:-1] + bytes([engine[-1] ^ 1]))
    again = build(forge, "one")
    assert again.outcomes() == {"fp32@ada": "reused"}
    assert "is corrupt" in again.err
    assert engine_bytes(forge, "one") == [engine]


def test_a_record_elsewhere_decides_nothing(forge: Forge, far: Path) -> None:
    """What is taken is the engine of this model, whatever a record says."""
    build(forge, "one")
    for record in far.glob("plans-v1/*/*.json"):
        record.write_text("{}")
    assert build(forge, "two").outcomes() == {"fp32@ada": "reused"}
    assert engine_bytes(forge, "one") == engine_bytes(forge, "two")


def test_an_early_cut_off_holds_across_machines(forge: Forge, far: Path) -> None:
    """Another plan that comes to the same engine: what it would be made of is there already."""
    build(forge, "one")
    model = forge.model.read_bytes()
    # A doc string changes the file, and not the model that an engine is built from.
    import onnx

    changed = onnx.load_model_from_string(model)
    changed.doc_string = "exported again"
    forge.model.write_bytes(changed.SerializeToString())
    assert far.exists()
    second = build(forge, "two")
    assert second.outcomes() == {"fp32@ada": "reused"}
    assert engine_bytes(forge, "one") == engine_bytes(forge, "two")


def test_a_remote_that_cannot_be_reached_costs_no_build(forge: Forge) -> None:
    unreachable = ("--remote", "http://127.0.0.1:9/engines")
    result = build(forge, "one", *unreachable)
    assert result.outcomes() == {"fp32@ada": "built"}
    assert result.code == 0
    assert "this run goes on without it" in result.err


@pytest.mark.parametrize("url", ["", " "])
def test_an_empty_url_is_refused(forge: Forge, url: str) -> None:
    result = forge.run("build", "specs", "--remote", url)
    assert result.code == 2
    assert "--remote names nothing" in result.err


def test_an_empty_variable_names_nothing(
    forge: Forge, far: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINEFORGE_REMOTE", "")
    build(forge, "one")
    assert far.exists()


@pytest.mark.parametrize("inside", [".", "one", "one/far", "one/trash"])
def test_a_remote_in_the_cache_or_around_it_is_refused(forge: Forge, inside: str) -> None:
    result = forge.run("build", "specs", "--cache", "one", "--remote", inside)
    assert result.code == 2
    assert "lie in each other" in result.err


@pytest.mark.usefixtures("far")
def test_a_dry_run_says_what_would_be_fetched(forge: Forge) -> None:
    build(forge, "one")
    result = forge.run("build", "specs", "--dry-run", "--cache", "two")
    assert "it is in far" in result.out
    assert "1 to fetch, 0 to build" in result.err


@pytest.mark.parametrize("ci", ["", "0", "false"])
def test_ci_that_is_off_is_no_ci(forge: Forge, monkeypatch: pytest.MonkeyPatch, ci: str) -> None:
    monkeypatch.setenv("CI", ci)
    forge.spec("engineforge", "remote: {url: ../far, push: ci}\n")
    build(forge, "one")
    assert not (forge.root / "far" / "plans-v1").exists()


def test_a_bad_settings_file_is_said_with_its_place(forge: Forge) -> None:
    forge.spec("engineforge", "remote: {url: s3://b, push: sometimes}\n")
    result = forge.run("build", "specs")
    assert result.code == 2
    assert "engineforge.yaml:1:" in result.err


def test_a_push_that_was_cut_short_is_made_good_by_the_next_build(forge: Forge, far: Path) -> None:
    build(forge, "one")
    for path in far.rglob("plans-v1/*/*.json"):
        path.unlink()
    shutil.rmtree(far / "entries-v1" / "engine")
    shutil.rmtree(forge.root / "one" / "plans-v1")
    assert build(forge, "one").outcomes() == {"fp32@ada": "reused"}
    assert build(forge, "two").outcomes() == {"fp32@ada": "reused"}
