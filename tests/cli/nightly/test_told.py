"""Who is told of a night: a webhook, and GitHub; and who is told no secret."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("cryptography", reason="python -m pip install 'engineforge[promotion]'")
pytest.importorskip("onnxruntime", reason="python -m pip install 'engineforge[precision]'")
pytest.importorskip("jinja2", reason="python -m pip install 'engineforge[report]'")

from tests.cli.nightly.nights import (
    Kept,
    Posts,
    left,
    night,
)
from tests.conftest import SPEC, Forge, Result

pytestmark = pytest.mark.slow


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
