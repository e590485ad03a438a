"""What GitHub's runner makes of a night."""

from __future__ import annotations

import re

import pytest

from engineforge.nightly.github import commands, summary
from tests.nightly.nights import HOSTILE, at, failed, night, passed, serving


def _read(line: str) -> tuple[str, dict[str, str], str]:
    """As the runner reads a command (actions/runner, ActionCommand.cs)."""
    found = re.fullmatch(r"::(\w+) ([^:]*(?:::?[^:]+)*?)::(.*)", line)
    assert found is not None, line
    pairs = (each.partition("=") for each in found[2].split(","))
    return found[1], {name: _unescaped(value) for name, _, value in pairs}, _unescaped(found[3])


def _unescaped(text: str) -> str:
    for code, character in (("%3A", ":"), ("%2C", ","), ("%0D", "\r"), ("%0A", "\n")):
        text = text.replace(code, character)
    return text.replace("%25", "%")


def test_a_failure_is_an_annotation_at_its_line_below_the_repository() -> None:
    (line,) = commands(night(passed(), failed(at=at("repo/specs/net.yaml", 7))), "repo")
    kind, properties, text = _read(line)
    assert (kind, text) == ("error", "no tactic")
    assert properties == {
        "file": "specs/net.yaml",
        "line": "7",
        "col": "3",
        "title": "build: net/fp32@ada",
    }


def test_what_is_nowhere_in_a_file_has_no_place() -> None:
    (line,) = commands(night(failed()), ".")
    assert _read(line)[1] == {"title": "build: net/fp32@ada"}


def test_an_untrusted_name_makes_no_command_and_no_property() -> None:
    hostile = HOSTILE + ",file=/etc/passwd::set-output name=x::y\r\n::stop-commands::z"
    (line,) = commands(night(failed(label=hostile, said=hostile, at=at(hostile, 1))), ".")
    assert line.isprintable()
    _, properties, text = _read(line)
    assert set(properties) == {"file", "line", "col", "title"}
    assert text.endswith("::stop-commands::z")
    assert properties["title"].endswith("::stop-commands::z")


def test_of_very_many_the_worst_are_shown_and_the_rest_counted() -> None:
    cases = [failed(code=1) for _ in range(40)] + [failed(code=2, said="wrong")]
    found = [_read(line)[2] for line in commands(night(*cases), ".")]
    assert (len(found), found[0]) == (10, "wrong")
    assert found[-1].startswith("32 more failed")


def test_served_engines_that_are_stale_since_are_a_warning() -> None:
    stale = [serving("a", fresh=False), serving("b", fresh=False)]
    (line,) = commands(night(newly_stale=stale), ".")
    kind, _, text = _read(line)
    assert kind == "warning"
    assert text.splitlines() == [
        "dev: a/fp32@ada: the model changed",
        "dev: b/fp32@ada: the model changed",
    ]


def test_a_summary_counts_by_step_and_lists_what_failed() -> None:
    found = summary(night(passed(), failed()), "told").splitlines()
    assert "| build | 1 | 1 | 0 |" in found
    assert "| build | net/fp32\\@ada | no tactic |" in found


@pytest.mark.parametrize("breaks", ["\n", "\r\n", "\u2028", "\x0b"])
def test_an_untrusted_name_is_no_markup_and_one_cell(breaks: str) -> None:
    hostile = f"<img src=x>|`[a](b)`{breaks}# x"
    row = summary(night(failed(label=hostile)), "told").splitlines()[-1]
    assert row == "| build | &lt;img src=x&gt;\\|\\`\\[a\\]\\(b\\)\\` \\# x | no tactic |"


def test_a_summary_is_never_larger_than_github_takes() -> None:
    found = summary(night(*[failed(said="x" * 3000) for _ in range(1000)]), "told")
    assert len(found.encode()) < 1 << 20
    assert found.endswith("… there is more in junit.xml and the report\n")
