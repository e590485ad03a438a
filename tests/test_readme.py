"""README.md says what is so: its commands, its specs, its table of commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import engineforge
from engineforge.cli.arguments import parser
from engineforge.spec.load import load
from engineforge.spec.validate import validate

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"```sh\n(.*?)\n```", README, flags=re.DOTALL)


def test_there_are_two_commands_and_ci_runs_exactly_the_second() -> None:
    main_job, tests = COMMANDS
    assert "engineforge build specs" in main_job
    assert tests in (ROOT / ".ci" / "run").read_text().splitlines()


def test_both_commands_set_everything_up() -> None:
    for command in COMMANDS:
        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install -q -e '.[")


@pytest.mark.parametrize(
    ("kind", "index"), [("spec", 0), ("targets", 1), ("settings", 3), ("environments", 4)]
)
def test_its_yaml_fits_the_schema(kind: str, index: int) -> None:
    text = re.findall(r"```yaml\n(.*?)\n```", README, flags=re.DOTALL)[index]
    document, problems = load("README.md", text.encode())
    assert document is not None
    assert problems == []
    assert validate(kind, document) == []


def test_its_python_names_what_there_is() -> None:
    (code,) = re.findall(r"```python\n(.*?)\n```", README, flags=re.DOTALL)
    compile(code, "README.md", "exec")
    for name in re.findall(r"\bef((?:\.\w+)+)", code):
        found: object = engineforge
        for part in name[1:].split("."):
            found = getattr(found, part)


def test_its_table_lists_every_command() -> None:
    listed = set(re.findall(r"^\| `engineforge ([\w-]+)", README, flags=re.MULTILINE))
    help_text = parser().format_help()
    known = set(re.findall(r"^    ([\w-]+)(?:  |$)", help_text, flags=re.MULTILINE))
    assert listed == known


def test_it_is_short_enough_to_be_read() -> None:
    assert len(README.splitlines()) <= 250


def test_nothing_committed_names_a_machine() -> None:
    told = re.compile(r"(?<![\w.])/(work|root|home/\w+)/|pypi\.org|files\.pythonhosted")
    files = [*ROOT.glob("*.*"), *ROOT.glob("specs/**/*.*"), *ROOT.glob("engineforge/**/*.py")]
    for path in files:
        if path.is_file() and path.suffix in (".py", ".md", ".yaml", ".toml", ".json"):
            assert not told.search(path.read_text()), path


def test_data_and_models_stay_small() -> None:
    size = sum(path.stat().st_size for path in (ROOT / "specs").rglob("*") if path.is_file())
    assert size < 20_000_000
