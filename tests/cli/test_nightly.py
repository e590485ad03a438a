"""`engineforge nightly`: whole nights, with real builds and a real signed environment."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

pytest.importorskip("cryptography", reason="python -m pip install 'engineforge[promotion]'")
pytest.importorskip("onnxruntime", reason="python -m pip install 'engineforge[precision]'")
pytest.importorskip("jinja2", reason="python -m pip install 'engineforge[report]'")

from engineforge.report import events
from tests.conftest import CLASSIC, SPEC, TARGETS, Forge, Result
from tests.models import convnet

junitparser = pytest.importorskip("junitparser", reason="python -m pip install 'junitparser>=4'")
pytestmark = pytest.mark.slow

ENVIRONMENTS = """\
dev:
  store: ../envs/dev
  signers: {ci: keys/ci.pub}
  gates: {freshness: {}, provenance: {}}
production:
  store: ../envs/production
  from: dev
  signers: {ci: keys/ci.pub}
  gates: {freshness: {}}
"""
_CHECK = "checks: {accuracy: {data: seen.npz, max_relative_error: %s}}\n"
KEY = ("--key", "specs/keys/ci.key")
_EVENTS = ("started", "waiting", "noted", "finished", "night", "step", "case", "serving", "ended")


def spec(name: str, *, accuracy: str | None = None) -> str:
    text = SPEC.replace("net.onnx", f"{name}.onnx")
    if accuracy is None:
        return text
    return text.replace("fp32: {precision: fp32}", "fp16: {precision: fp16}") + _CHECK % accuracy


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("once")


@pytest.fixture
def project(forge: Forge, once: Path, monkeypatch: pytest.MonkeyPatch) -> Forge:
    """A spec that was built and is stale, one that fails its accuracy check, one that is broken,
    one that is fine, and an environment for them."""
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "ENGINEFORGE_WEBHOOK"):
        monkeypatch.delenv(name, raising=False)
    if (once / "specs").exists():
        shutil.rmtree(forge.root / "specs")
        shutil.copytree(once, forge.root, dirs_exist_ok=True)
        return forge
    (forge.specs / "net.yaml").unlink()
    forge.model.unlink()
    random = np.random.default_rng(3)
    images = random.standard_normal((8, 3, 16, 16), dtype=np.float32)
    np.savez(forge.specs / "seen.npz", image=images)
    for seed, name in enumerate(("fine", "stale", "failing")):
        convnet(forge.specs / "models" / f"{name}.onnx", seed=seed)
    (forge.specs / "models" / "broken.onnx").write_bytes(b"no model")
    forge.spec("fine", spec("fine", accuracy="0.1"))
    forge.spec("failing", spec("failing", accuracy="1.0e-9"))
    forge.spec("stale", spec("stale"))
    forge.spec("environments", ENVIRONMENTS)
    (forge.specs / "keys").mkdir()
    (forge.root / "envs").mkdir()
    assert forge.run("attest", "key", "specs/keys/ci").code == 0
    assert forge.build().code == 0
    forge.edit("stale", "max: [8,", "max: [9,")
    forge.spec("broken", spec("broken"))
    # It is copied, and what it was copied from needs nothing of it.
    shutil.rmtree(forge.cache / "projects")
    shutil.copytree(forge.root, once, dirs_exist_ok=True)
    return forge


@pytest.fixture
def sound(project: Forge) -> Forge:
    """The same without what fails."""
    for name in ("broken", "failing"):
        (project.specs / f"{name}.yaml").unlink()
    return project


def night(forge: Forge, *args: str) -> Result:
    return forge.run("nightly", "specs", "-o", "nights", *KEY, *args)


def left(forge: Forge, name: str = "latest") -> Path:
    return forge.root / "nights" / name


def cases(forge: Forge) -> dict[tuple[str, str], str]:
    """Of junit.xml as junitparser reads it: suite and case, and what they came to."""
    whole = junitparser.JUnitXml.fromfile(str(left(forge) / "junit.xml"))
    return {
        (suite.name, case.name): type(case.result[0]).__name__ if case.result else "Passed"
        for suite in whole
        for case in suite
    }


def log(folder: Path) -> list[dict[str, Any]]:
    """The events of a night, each of which the published schema knows and takes."""
    found = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    validator = Draft202012Validator(events.schema())
    for each in found:
        validator.validate(each)
        assert each["event"] in _EVENTS
    return found


def in_dev(forge: Forge) -> dict[str, int | None]:
    found = forge.run("status", "specs", "--json").json["cells"]
    return {each["spec"]: each["number"] for each in found if each["environment"] == "dev"}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return Kept(tmp_path_factory.mktemp("kept"))


class Kept:
    """Nights that several tests look at."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._results = folder, dict[str, Result]()

    def night(self, forge: Forge, name: str, *args: str) -> Result:
        if name not in self._results:
            self._results[name] = night(forge, *args)
            shutil.copytree(forge.root, self._folder / name, symlinks=True)
        else:
            shutil.rmtree(forge.root)
            shutil.copytree(self._folder / name, forge.root, symlinks=True)
            os.chdir(forge.root)
        return self._results[name]


class TestOneNight:
    @pytest.fixture
    def result(self, project: Forge, kept: Kept) -> Result:
        return kept.night(project, "one")

    def test_its_exit_code_is_the_worst_of_all(self, result: Result) -> None:
        assert result.code == 2

    def test_its_junit_says_what_each_came_to(self, project: Forge, result: Result) -> None:
        assert cases(project) == {
            ("lock", "lock"): "Passed",
            ("plan", "broken"): "Error",
            ("plan", "failing"): "Passed",
            ("plan", "fine"): "Passed",
            ("plan", "stale"): "Passed",
            ("build", "failing/fp16@ada"): "Passed",
            ("build", "fine/fp16@ada"): "Passed",
            ("build", "stale/fp32@ada"): "Passed",
            ("accuracy", "failing/fp16@ada"): "Failure",
            ("accuracy", "fine/fp16@ada"): "Passed",
            ("engine", "failing/fp16@ada"): "Skipped",
            ("engine", "fine/fp16@ada"): "Skipped",
            ("promotion", "broken"): "Skipped",
            ("promotion", "failing"): "Skipped",
            ("promotion", "fine/fp16@ada"): "Passed",
            ("promotion", "stale/fp32@ada"): "Passed",
            ("gc", "gc"): "Skipped",
            ("report", "report"): "Passed",
        }

    def test_the_fine_and_the_stale_one_are_promoted_and_no_other(
        self, project: Forge, result: Result
    ) -> None:
        (project.specs / "broken.yaml").unlink()
        assert in_dev(project) == {"fine": 1, "stale": 1, "failing": None}

    def test_its_report_says_it_too(self, project: Forge, result: Result) -> None:
        found = json.loads((left(project) / "report.json").read_text())
        variants = {each["spec"]: each for each in found["variants"]}
        assert variants["failing"]["failure"]["stage"] == "accuracy check"
        assert variants["fine"]["failure"] is None
        assert variants["fine"]["environments"]["dev"]["fresh"] is True
        assert [each["file"] for each in found["problems"]] == ["specs/broken.yaml"]
        page = (left(project) / "report.html").read_text()
        assert 'id="failing/fp16@ada"' in page
        assert "specs/broken.yaml" in page

    def test_its_log_fits_the_schema_and_says_how_it_ended(
        self, project: Forge, result: Result
    ) -> None:
        found = log(left(project))
        assert found[0]["event"] == "night"
        assert (found[-1]["event"], found[-1]["code"]) == ("ended", 2)
        finished = {
            (each["label"], each.get("check")): each["outcome"]
            for each in found
            if each["event"] == "finished"
        }
        assert finished == {
            ("failing/fp16@ada", None): "reused",
            ("fine/fp16@ada", None): "reused",
            ("stale/fp32@ada", None): "built",
            ("failing/fp16@ada", "accuracy"): "failed",
            ("fine/fp16@ada", "accuracy"): "passed",
        }

    def test_it_says_what_failed_with_its_place(self, project: Forge, result: Result) -> None:
        assert "failed   plan       broken: model.source.path: 'broken.onnx' is no" in result.out
        assert "failed   accuracy   failing/fp16@ada: relative_error of 'logits'" in result.out
        assert result.err.splitlines()[-1].endswith("exit code 2")
        found = {
            (each["step"], each["file"], each["line"])
            for each in log(left(project))
            if each["event"] == "case" and each["verdict"] == "failed"
        }
        assert found == {("plan", "specs/broken.yaml", 2), ("accuracy", "specs/failing.yaml", 7)}


def test_a_night_with_nothing_to_do_is_0_and_promotes_nothing_anew(sound: Forge) -> None:
    assert night(sound).code == 0
    again = night(sound, "--json")
    assert again.code == 0
    found = {(each["step"], each["said"]) for each in again.json["cases"]}
    assert ("build", "reused: nothing changed") in found
    assert ("promotion", "nothing to do, dev has number 1") in found
    assert any(step == "gc" and said.startswith("0 entries") for step, said in found)
    assert len([each for each in (sound.root / "nights").iterdir() if each.name[0] == "2"]) == 2


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


class TestBeforeItBegins:
    """What is wrong with the command itself is told at once, and no night made."""

    @pytest.fixture(autouse=True)
    def no_night(self, sound: Forge) -> Iterator[None]:
        yield
        assert not list(sound.root.glob("nights/2*"))

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            ((), "there is no key"),
            (("--key", "nowhere.key"), "'nowhere.key' cannot be read"),
            (("--key", "specs/keys/ci.pub"), "expected a private key"),
            ((*KEY, "--to", "produktion"), "did you mean 'production'?"),
            ((*KEY, "--to", "dev", "--no-promote"), "choose one"),
            ((*KEY, "--older-than", "yesterday"), "'yesterday' is no time"),
            ((*KEY, "--max-size", "much"), "'much' is no size"),
            ((*KEY, "--webhook", "hooks.example.com/s3cr3t"), "is no URL"),
        ],
    )
    def test_it_is_2(self, words: tuple[str, ...], told: str, sound: Forge) -> None:
        result = sound.run("nightly", "-o", "nights", *words)
        assert result.code == 2
        assert told in result.err
        assert "s3cr3t" not in result.err

    def test_two_first_environments_are_one_too_many(self, sound: Forge) -> None:
        sound.edit("environments", "  from: dev\n", "")
        result = night(sound)
        assert result.code == 2
        assert "--to ENV" in result.err

    def test_a_key_without_environments_is_for_nothing(self, sound: Forge) -> None:
        (sound.specs / "environments.yaml").unlink()
        result = night(sound)
        assert result.code == 2
        assert "environments.yaml" in result.err

    def test_a_folder_that_cannot_be_made_is_told(self, sound: Forge) -> None:
        assert sound.run("nightly", "-o", "no/nights", *KEY).code == 2
        assert sound.run("nightly", "-o", "/proc/nights", *KEY).code == 5

    @pytest.mark.parametrize("typed", ["--webhok=%s", "--web-hook=%s", "--to dev --weebhook=%s"])
    def test_an_option_that_is_mistyped_does_not_tell_the_secret(
        self, typed: str, sound: Forge
    ) -> None:
        words = (typed % "https://hooks.example.com/s3cr3t").split()
        result = sound.run("nightly", "-o", "nights", *KEY, *words)
        assert result.code == 2
        assert "s3cr3t" not in result.err
        assert "unrecognized arguments" in result.err


def test_without_environments_a_night_promotes_nothing_and_says_so(sound: Forge) -> None:
    (sound.specs / "environments.yaml").unlink()
    result = sound.run("nightly", "-o", "nights")
    assert result.code == 0
    assert "promotion  1 skipped: there is no 'specs/environments.yaml'" in result.out


class Posts(list[dict[str, Any]]):
    url = ""


@pytest.fixture
def posts() -> Iterator[Posts]:
    """What a webhook is told."""
    got = Posts()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        got.url = f"http://127.0.0.1:{server.server_port}/s3cr3t"
        yield got
        server.shutdown()
        thread.join()


class TestWebhook:
    def test_a_night_that_went_well_is_not_told(self, sound: Forge, posts: Posts) -> None:
        assert night(sound, "--webhook", posts.url).code == 0
        assert posts == []

    def test_a_failure_is_told(self, project: Forge, posts: Posts) -> None:
        result = night(project, "--webhook", posts.url)
        (message,) = posts
        assert "2 failed" in message["text"]
        assert "failing/fp16@ada" in json.dumps(message["blocks"])
        assert result.code == 2

    def test_a_served_engine_that_becomes_stale_is_told_once(
        self, sound: Forge, posts: Posts
    ) -> None:
        assert night(sound).code == 0
        assert night(sound, "--to", "production").code == 0
        sound.edit("stale", "max: [9,", "max: [10,")
        codes = [night(sound, "--webhook", posts.url).code for _ in range(2)]
        assert codes == [0, 0]
        (message,) = posts
        assert "1 served engine stale since" in message["text"]
        assert "production: stale/fp32@ada: profiles[0].image.shape.max[0] 9 → 10" in json.dumps(
            message, ensure_ascii=False
        )

    def test_one_that_is_gone_changes_no_code_and_is_said(self, project: Forge) -> None:
        result = night(project, "--webhook", "http://127.0.0.1:9/s3cr3t")
        assert result.code == 2
        assert "note: the webhook was not told: the connection was refused" in result.err
        assert "webhook was not told" in (left(project) / "events.jsonl").read_text()

    def test_its_url_is_nowhere(
        self, project: Forge, posts: Posts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ENGINEFORGE_WEBHOOK", posts.url)
        result = night(project, "--json")
        assert len(posts) == 1
        written = [each.read_text() for each in left(project).iterdir()]
        assert not [text for text in (result.out, result.err, *written) if "s3cr3t" in text]


class TestOnGitHub:
    @pytest.fixture
    def result(self, project: Forge, kept: Kept, monkeypatch: pytest.MonkeyPatch) -> Result:
        monkeypatch.setenv("GITHUB_ACTIONS", "true")
        monkeypatch.setenv("GITHUB_WORKSPACE", str(project.root))
        monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(project.root / "summary.md"))
        (project.root / "summary.md").write_text("before\n")
        return kept.night(project, "github", "--json")

    def test_failures_are_annotations_and_stdout_stays_json(self, result: Result) -> None:
        found = [each for each in result.err.splitlines() if each.startswith("::error")]
        assert found[0].startswith("::error file=specs/broken.yaml,line=2,col=12,title=plan%3A ")
        assert found[1].startswith("::error file=specs/failing.yaml,line=7,col=3,title=accuracy%3A")
        assert result.json["exit_code"] == 2

    def test_nothing_in_between_is_a_command(self, result: Result) -> None:
        lines = [each for each in result.err.splitlines() if each.startswith("::")]
        stopped, token = lines[0].rsplit("::", 1)
        assert stopped == "::stop-commands"
        assert len(token) == 32
        assert lines[1] == f"::{token}::"
        assert all(each.startswith("::error ") for each in lines[2:])

    def test_a_summary_is_added_to_that_of_the_step(self, project: Forge, result: Result) -> None:
        text = (project.root / "summary.md").read_text()
        assert text.startswith("before\n## night of")
        assert "| accuracy | 1 | 1 | 0 |" in text

    def test_elsewhere_there_are_none(self, project: Forge) -> None:
        assert "::" not in night(project).err


def _process(forge: Forge, *args: str, environment: Mapping[str, str] = os.environ) -> Any:  # noqa: ANN401
    return subprocess.Popen(
        [sys.executable, "-m", "engineforge", "nightly", "specs", "-o", "nights", *KEY, *args],
        cwd=forge.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


class TestEndedEarly:
    @pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
    def test_interrupted_it_leaves_what_there_was_and_the_next_goes_on(
        self, how: signal.Signals, sound: Forge, posts: Posts
    ) -> None:
        process = _process(sound, "--webhook", posts.url)
        next(process.stderr)  # something is being built
        process.send_signal(how)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130, out + err
        assert (log(left(sound))[-1]["event"], log(left(sound))[-1]["code"]) == ("ended", 130)
        assert ("plan", "stale") in cases(sound)
        assert "interrupted" in posts[0]["text"]
        assert night(sound).code == 0

    def test_killed_it_leaves_its_log_and_the_next_one_notes_it(self, sound: Forge) -> None:
        process = _process(sound)
        next(process.stderr)
        process.kill()
        process.communicate()
        (folder,) = sound.root.glob("nights/2*")
        assert [each["event"] for each in log(folder)][:2] == ["night", "step"]
        result = night(sound)
        assert result.code == 0
        assert f"note: the night before, 'nights/{folder.name}', did not end" in result.err

    def test_two_at_once_are_one_and_a_refusal(self, sound: Forge) -> None:
        first = _process(sound)
        next(first.stderr)
        second = _process(sound)
        out, err = second.communicate(timeout=60)
        assert (second.returncode, out) == (1, "")
        assert f"a night is under way in 'nights': process {first.pid} on" in err
        first.communicate(timeout=60)
        assert first.returncode == 0
        assert len(list(sound.root.glob("nights/2*"))) == 1


def test_user_code_in_children_knows_no_secret(
    forge: Forge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A spec's own function that fills a network, which writes down what it finds."""
    (forge.specs / "peek.py").write_text(
        "import os\n"
        "def samples():\n"
        f"    open({str(forge.root / 'seen.txt')!r}, 'w').write(repr(dict(os.environ)))\n"
        "    import numpy as np\n"
        "    yield {'image': np.zeros((4, 3, 16, 16), np.float32)}\n"
    )
    forge.spec(
        "net",
        SPEC.replace("fp32: {precision: fp32}", "fp16: {precision: fp16}")
        + "checks: {accuracy: {data: {python: 'peek:samples'}, max_relative_error: 0.1}}\n",
    )
    monkeypatch.setenv("ENGINEFORGE_WEBHOOK", "http://127.0.0.1:9/s3cr3t")
    monkeypatch.setenv("ENGINEFORGE_KEY_PASSWORD", "s3cr3t")
    forge.run("nightly", "-o", "nights")
    assert "PATH" in (forge.root / "seen.txt").read_text()
    assert "s3cr3t" not in (forge.root / "seen.txt").read_text()


def test_two_hundred_variants_are_a_night_like_any_other(sound: Forge) -> None:
    variants = "".join(
        f"  v{at}: {{builder: {{tf32: {str(bool(at % 2)).lower()}}}, targets: [h200]}}\n"
        for at in range(200)
    )
    sound.spec("targets", TARGETS + CLASSIC)
    sound.spec("many", spec("stale") + variants)
    result = night(sound)
    assert result.code == 0, result.out
    found = cases(sound)
    assert sum(step == "build" for step, _ in found) == 203
    assert "build      3 passed, 200 skipped" in result.out


def test_two_nights_can_be_compared(sound: Forge) -> None:
    for _ in range(2):
        assert night(sound).code == 0
    before, after = sorted(sound.root.glob("nights/2*"))
    logs = sound.run("diff", before / "events.jsonl", after / "events.jsonl")
    assert (logs.code, "~ stale/fp32@ada\n    built → reused" in logs.out) == (0, True)
    reports = sound.run("diff", before / "report.json", after / "report.json")
    assert (reports.code, "2 the same" in reports.out) == (0, True)


def test_an_environment_that_is_out_of_reach_costs_its_promotion_alone(sound: Forge) -> None:
    sound.edit("environments", "store: ../envs/dev", "store: 'oci://127.0.0.1:9/engines'")
    result = night(sound)
    assert result.code == 1
    found = cases(sound)
    assert found["build", "stale/fp32@ada"] == "Passed"
    assert found["report", "report"] == "Passed"
    assert sum(each == "Error" for each in found.values()) == 1
    assert "note: dev could not be asked what it serves" in result.err


def test_the_schema_of_its_log_is_published(forge: Forge) -> None:
    assert forge.run("schema", "events").json == events.schema()


def test_nights_that_are_kept_no_longer_go(sound: Forge) -> None:
    for _ in range(3):
        result = night(sound, "--no-promote", "--keep-nights", "2")
    assert len(list(sound.root.glob("nights/2*"))) == 2
    assert "note: nights that are kept no longer: " in result.err


def test_without_the_extra_of_the_page_all_else_is_written(sound: Forge) -> None:
    shadow = sound.root / "without"
    shadow.mkdir()
    (shadow / "jinja2.py").write_text("raise ModuleNotFoundError(name='jinja2')\n")
    path = os.pathsep.join([str(shadow), *sys.path])
    process = _process(sound, environment={**os.environ, "PYTHONPATH": path})
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 5
    assert "engineforge[report]" in out
    assert (left(sound) / "report.json").exists()
    assert cases(sound)["report", "report"] == "Error"
