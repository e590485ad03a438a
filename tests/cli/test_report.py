"""`engineforge report`: what of a real project gets onto the page, and into the JSON."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from engineforge.promotion.attest.keys import generate
from tests.conftest import CLASSIC, SPEC, TARGETS, Forge
from tests.models import convnet

pytest.importorskip("jinja2", reason="needs: python -m pip install 'engineforge[report]'")

_ENVIRONMENTS = """\
dev:
  store: ../envs/dev
  signers: {ci: keys/ci.pub}
  gates: {freshness: {}, provenance: {}}
"""
_FAR = """\
far:
  store: oci://127.0.0.1:9/engines
  signers: {ci: keys/ci.pub}
  gates: {freshness: {}}
"""


def _report(forge: Forge, *args: str | Path) -> dict[str, Any]:
    result = forge.run("report", "specs", "--json", *args)
    assert result.code == 0, result.err
    found: dict[str, Any] = result.json
    return found


def _promoted(forge: Forge) -> None:
    pytest.importorskip("cryptography", reason="python -m pip install 'engineforge[promotion]'")
    keys = forge.specs / "keys"
    keys.mkdir()
    (forge.root / "envs").mkdir()
    private, public = generate("ecdsa-p256")
    handle = os.open(keys / "ci.key", os.O_WRONLY | os.O_CREAT, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(private)
    (keys / "ci.pub").write_bytes(public)
    forge.spec("environments", _ENVIRONMENTS)
    result = forge.run("promote", "specs", "--to", "dev", "--key", "specs/keys/ci.key")
    assert result.code == 0, result.err


def test_a_page_is_written_and_is_one_file(built: Forge) -> None:
    result = built.run("report", "specs", "-o", "report.html")
    assert (result.code, result.out) == (0, "")
    assert result.err == "report.html: 1 variant\n"
    text = Path("report.html").read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert 'id="net/fp32@ada"' in text
    assert not [each for each in built.root.iterdir() if each.name.startswith("replace-")]


def test_it_says_what_is_up_to_date_and_what_it_is(built: Forge) -> None:
    (variant,) = _report(built)["variants"]
    (engine,) = built.engines()
    assert (variant["state"], variant["label"]) == ("up-to-date", "net/fp32@ada")
    assert variant["last"]["size"] == engine.stat().st_size
    assert variant["last"]["engine"] == f"sha256:{engine.parent.name}"
    assert variant["toolchain"].startswith("tensorrt_rtx 1.7.1.116")
    assert len(variant["history"]) == 1


def test_without_environments_it_says_so(built: Forge) -> None:
    assert _report(built)["environments"] is None


def test_what_was_rebuilt_says_why(built: Forge) -> None:
    convnet(built.model, seed=3)
    assert built.build().code == 0
    newest, first = _report(built)["builds"]
    assert (first["first"], newest["first"]) == (True, False)
    (change,) = newest["changes"]
    assert change["leaf"] == "model 'net.onnx'"
    assert newest["why"].startswith("model 'net.onnx' changed (")


def test_what_is_stale_says_why_and_keeps_its_last_engine(built: Forge) -> None:
    built.edit("net", "max: [8,", "max: [9,")
    (variant,) = _report(built)["variants"]
    assert variant["state"] == "stale"
    assert variant["why"] == ["profiles[0].image.shape.max[0] 8 → 9"]
    assert variant["last"]["size"] > 0


def test_what_is_for_another_host_says_so(forge: Forge) -> None:
    forge.spec("targets", TARGETS + CLASSIC)
    forge.spec("net", SPEC.replace("[ada]", "[h200]"))
    (variant,) = _report(forge)["variants"]
    assert variant["state"] == "unfit"
    assert variant["last"] is None


def test_a_failure_of_the_last_run_comes_with_its_log(forge: Forge) -> None:
    log = Path("night.jsonl")
    event = {"v": 1, "event": "finished", "label": "net/fp32@ada", "outcome": "failed"}
    more = {"stage": "engine", "error": "no tactic", "log": ["one", "<b>two</b>"]}
    log.write_text(json.dumps({**event, **more, "time": "2026-10-01T03:00:00Z"}) + "\n")
    found = _report(forge, "--events", log, "-o", "report.html")
    assert found["variants"][0]["failure"]["log"] == ["one", "<b>two</b>"]
    text = Path("report.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;two&lt;/b&gt;" in text
    assert "<b>two</b>" not in text


def test_a_night_is_named_by_its_folder(forge: Forge) -> None:
    night = Path("nights/latest")
    night.mkdir(parents=True)
    event = {"v": 1, "event": "finished", "label": "net/fp32@ada", "outcome": "failed"}
    written = json.dumps({**event, "stage": "engine", "error": "no tactic"})
    (night / "events.jsonl").write_text(written + "\n")
    found = _report(forge, "--events", night)
    assert found["variants"][0]["failure"]["error"] == "no tactic"


def test_what_build_printed_is_a_log_too(forge: Forge) -> None:
    forge.spec("targets", TARGETS.replace("1.7.1.116", "1.7.1.115"))
    printed = Path("build.json")
    printed.write_text(forge.build().out)
    assert _report(forge, "--events", printed)["log"] == {"events": 1, "cut": False}


@pytest.mark.slow
def test_environments_are_told_with_their_ledgers_and_one_that_is_gone(built: Forge) -> None:
    _promoted(built)
    built.spec("environments", _ENVIRONMENTS + _FAR)
    found = _report(built)
    dev, far = found["environments"]
    assert (dev["unreachable"], far["name"]) == (None, "far")
    assert far["unreachable"]
    there = found["variants"][0]["environments"]
    assert [*there] == ["dev"]
    assert (there["dev"]["number"], there["dev"]["fresh"]) == (1, True)
    (event,) = found["promotions"]
    assert (event["environment"], event["action"], event["changed"]) == (
        "dev",
        "promote",
        ["fp32@ada"],
    )
    assert _report(built, "--no-environments")["environments"] is None


def test_an_environment_that_serves_what_is_stale_says_so(built: Forge) -> None:
    _promoted(built)
    built.edit("net", "max: [8,", "max: [9,")
    there = _report(built)["variants"][0]["environments"]["dev"]
    assert (there["fresh"], there["why"]) == (False, "profiles[0].image.shape.max[0] 8 → 9")


def test_a_ledger_that_is_not_to_be_believed_is_told(built: Forge) -> None:
    _promoted(built)
    _, public = generate("ecdsa-p256")
    (built.specs / "keys" / "ci.pub").write_bytes(public)
    dev = _report(built)["environments"][0]
    assert dev["unreachable"] is None
    assert (
        "counts for nothing" in dev["faults"]["net"] or "signed by no key" in dev["faults"]["net"]
    )


def test_problems_of_specs_are_on_the_page_and_in_the_exit_code(built: Forge) -> None:
    built.spec("bad", "model: {}\n")
    result = built.run("report", "specs", "-o", "report.html", "--json")
    assert result.code == 2
    assert result.json["problems"][0]["file"].endswith("bad.yaml")
    assert "bad.yaml" in Path("report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "-o says where the page goes"),
        (("-o", "nowhere/report.html"), "is no file in a folder that is there"),
        (("-o", "specs"), "is no file in a folder that is there"),
        (("-o", "r.html", "--events", "nothing"), "there is no file 'nothing'"),
        (("-o", "r.html", "--events", "specs"), "'specs' is a folder, and no night's"),
        (("-o", "r.html", "--events", "specs/net.yaml"), "'specs/net.yaml' is no event log"),
    ],
)
def test_what_cannot_be_meant_is_told(forge: Forge, words: tuple[str, ...], message: str) -> None:
    result = forge.run("report", "specs", *words)
    assert result.code == 2
    assert message in result.err


def test_a_cache_that_is_gone_has_a_page_too(built: Forge) -> None:
    shutil.rmtree(built.cache)
    (variant,) = _report(built)["variants"]
    assert (variant["state"], variant["last"]) == ("stale", None)


def test_an_engine_of_an_environment_can_be_compared(built: Forge) -> None:
    _promoted(built)
    convnet(built.model, seed=5)
    assert built.build().code == 0
    for name in ("dev/net", "dev/net:fp32@ada"):
        result = built.run("diff", name, "net:fp32@ada", "--json")
        assert result.code == 0, result.err
        assert result.json["before"]["name"] == "dev/net:fp32@ada"
        assert [each["leaf"] for each in result.json["key"]] == ["model"]
    assert "dev has nothing of 'other'" in built.run("diff", "dev/other", "net:fp32@ada").err
    missing = built.run("diff", "dev/net:fp99@ada", "net:fp32@ada").err
    assert "'dev/net:fp99@ada' is none of the engines there" in missing
