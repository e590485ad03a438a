"""What the failure of one step of a night means for the others."""

from __future__ import annotations

import json
import os
import sys

import pytest

pytest.importorskip("cryptography", reason="python -m pip install 'engineforge[promotion]'")
pytest.importorskip("onnxruntime", reason="python -m pip install 'engineforge[precision]'")
pytest.importorskip("jinja2", reason="python -m pip install 'engineforge[report]'")

from tests.cli.nightly.nights import (
    cases,
    in_dev,
    left,
    log,
    night,
    process,
)
from tests.conftest import CLASSIC, TARGETS, Forge

pytestmark = pytest.mark.slow


def test_a_build_that_fails_is_not_checked_nor_promoted_and_stops_nothing(sound: Forge) -> None:
    sound.edit("fine", "{precision: fp16}", "{precision: fp16, builder: {workspace: 1B}}")
    result = night(sound)
    assert result.code == 1
    assert "failed   build      fine/fp16@ada: failed in stage engine" in result.out
    found = cases(sound)
    assert found["build", "fine/fp16@ada"] == "Error"
    assert found["accuracy", "fine/fp16@ada"] == "Skipped"
    assert found["promotion", "fine"] == "Skipped"
    assert found["promotion", "stale/fp32@ada"] == "Passed"
    report = json.loads((left(sound) / "report.json").read_text())
    (failure,) = (each["failure"] for each in report["variants"] if each["spec"] == "fine")
    assert failure["stage"] == "engine"
    assert failure["error"]


class TestSteps:
    def test_a_lock_that_cannot_be_read_ends_it(self, sound: Forge) -> None:
        (sound.specs / "engineforge.lock").write_text("files: [")
        result = night(sound)
        assert result.code == 2
        assert {step for step, _ in cases(sound)} == {"lock"}

    def test_a_lock_that_says_too_much_is_said_and_the_rest_done(self, sound: Forge) -> None:
        (sound.specs / "engineforge.lock").write_text(
            "format: 1\nfiles:\n  'https://example.com/x.onnx':\n"
            f"    sha256: '{'0' * 64}'\n    size: 1\n"
        )
        result = night(sound, "--no-promote")
        assert result.code == 2
        assert "no spec names 'https://example.com/x.onnx' any more" in result.out
        assert cases(sound)["build", "stale/fp32@ada"] == "Passed"

    def test_wrong_targets_leave_nothing_to_build_and_environments_asked(
        self, sound: Forge
    ) -> None:
        sound.spec("targets", TARGETS.replace("compute_capabilities: [8.9]", "compute: 8.9"))
        result = night(sound)
        assert result.code == 2
        found = cases(sound)
        assert ("report", "report") in found
        assert not [step for step, _ in found if step == "build"]

    def test_wrong_environments_fail_the_promotion_alone(self, sound: Forge) -> None:
        sound.edit("environments", "freshness: {}", "freshnes: {}")
        result = night(sound)
        assert result.code == 2
        found = cases(sound)
        assert found["build", "stale/fp32@ada"] == "Passed"
        assert found["promotion", "specs/environments.yaml"] == "Error"
        assert not list((sound.root / "envs").iterdir())

    def test_data_of_a_check_that_is_missing_keeps_its_spec_back(self, sound: Forge) -> None:
        (sound.specs / "seen.npz").unlink()
        result = night(sound)
        assert result.code == 2
        found = cases(sound)
        assert found["accuracy", "fine"] == "Error"
        assert found["promotion", "fine"] == "Skipped"
        assert found["promotion", "stale/fp32@ada"] == "Passed"

    def test_a_host_that_can_build_nothing_is_5(self, sound: Forge) -> None:
        sound.spec("targets", TARGETS + CLASSIC)
        for name in ("fine", "stale"):
            sound.edit(name, "targets: [ada]", "targets: [h200]")
        result = night(sound)
        assert result.code == 5
        found = cases(sound)
        assert found["promotion", "stale"] == "Skipped"

    def test_a_corrupt_entry_is_made_anew_and_comes_to_4(self, sound: Forge) -> None:
        (key,) = (each["engine"] for each in sound.plan() if each["spec"] == "fine")
        (engine,) = sound.cache.glob(f"entries-v1/engine/*/{key[7:]}/model.engine")
        engine.chmod(0o644)
        engine.write_bytes(b"x")
        result = night(sound)
        assert result.code == 4
        assert "failed   store" in result.out
        assert cases(sound)["build", "fine/fp16@ada"] == "Passed"

    def test_what_nobody_expected_fails_its_step_and_promotes_nothing(
        self, sound: Forge, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # A bug, as there may be one anywhere.
        monkeypatch.setattr("engineforge.project.project.Project.build", None)
        result = night(sound)
        assert result.code == 1
        assert "Traceback" in result.err
        found = cases(sound)
        assert found["build", "build"] == "Error"
        assert found["promotion", "promotion"] == "Skipped"
        assert found["gc", "gc"] == "Skipped"
        assert found["report", "report"] == "Passed"

    def test_a_page_that_cannot_be_made_costs_the_page_alone(
        self, sound: Forge, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # A bug, as there may be one in whatever makes it.
        monkeypatch.setattr("engineforge.nightly.ending.page", None)
        result = night(sound)
        assert result.code == 1
        assert "Traceback" in result.err
        assert cases(sound)["report", "report"] == "Error"
        assert log(left(sound))[-1]["event"] == "ended"
        assert in_dev(sound) == {"fine": 1, "stale": 1}


class TestPromotion:
    def test_a_key_that_may_not_is_refused_once(self, sound: Forge) -> None:
        assert sound.run("attest", "key", "eve").code == 0
        result = sound.run("nightly", "-o", "nights", "--key", "eve.key")
        assert result.code == 3
        assert result.out.count("may not promote to dev") == 1

    def test_what_a_gate_refuses_is_a_failure_and_3(self, sound: Forge) -> None:
        sound.edit("environments", "{freshness: {}, provenance: {}}", "{load_test: {}}")
        assert night(sound).code == 3
        assert cases(sound)["promotion", "stale/fp32@ada"] == "Failure"
        assert in_dev(sound) == {"fine": None, "stale": None}

    def test_another_environment_may_be_named(self, sound: Forge) -> None:
        assert night(sound).code == 0
        assert night(sound, "--to", "production").code == 0
        found = sound.run("status", "--json").json["cells"]
        assert {each["number"] for each in found if each["environment"] == "production"} == {1}

    def test_the_ledger_says_that_it_was_a_night(self, sound: Forge) -> None:
        assert night(sound).code == 0
        found = sound.run("history", "stale", "--in", "dev", "--json")
        assert '"reason": "nightly"' in found.out


def test_without_environments_a_night_promotes_nothing_and_says_so(sound: Forge) -> None:
    (sound.specs / "environments.yaml").unlink()
    result = sound.run("nightly", "-o", "nights")
    assert result.code == 0
    assert "promotion  1 skipped: there is no 'specs/environments.yaml'" in result.out


def test_an_environment_that_is_out_of_reach_costs_its_promotion_alone(sound: Forge) -> None:
    sound.edit("environments", "store: ../envs/dev", "store: 'oci://127.0.0.1:9/engines'")
    result = night(sound)
    assert result.code == 1
    found = cases(sound)
    assert found["build", "stale/fp32@ada"] == "Passed"
    assert found["report", "report"] == "Passed"
    assert sum(each == "Error" for each in found.values()) == 1
    assert "note: dev could not be asked what it serves" in result.err


def test_where_nothing_can_be_shared_this_host_builds_by_itself(sound: Forge) -> None:
    result = night(sound, "--remote", "https://127.0.0.1:9/engines", "--push", "always")
    assert result.code == 2
    assert "nothing is shared with other machines: " in result.out
    found = cases(sound)
    assert found["build", "build"] == "Error"
    assert found["build", "stale/fp32@ada"] == "Passed"
    assert in_dev(sound) == {"fine": 1, "stale": 1}


def test_a_model_is_exported_first_and_what_that_shows_is_said_once(sound: Forge) -> None:
    pytest.importorskip("torch", reason="python -m pip install 'engineforge[pytorch]'")
    from tests.project.test_exporting import of_pytorch

    result = night(of_pytorch(sound), "--no-promote")
    assert result.code == 0
    assert cases(sound)["build", "net/fp32@ada"] == "Passed"
    assert result.err.count("'nets:make' draws its parameters at random") == 1


def test_without_the_extra_of_the_page_all_else_is_written(sound: Forge) -> None:
    shadow = sound.root / "without"
    shadow.mkdir()
    (shadow / "jinja2.py").write_text("raise ModuleNotFoundError(name='jinja2')\n")
    path = os.pathsep.join([str(shadow), *sys.path])
    started = process(sound, environment={**os.environ, "PYTHONPATH": path})
    out, _ = started.communicate(timeout=60)
    assert started.returncode == 5
    assert "engineforge[report]" in out
    assert (left(sound) / "report.json").exists()
    assert cases(sound)["report", "report"] == "Error"
