"""What a shell and a person are told of the commands."""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from engineforge.cli.arguments import parser
from engineforge.cli.arguments.examples import EXAMPLES
from tests.conftest import Forge


def _commands() -> dict[str, argparse.ArgumentParser]:
    (actions,) = (a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(actions.choices)


@pytest.mark.parametrize("name", _commands())
def test_every_command_has_an_example_in_its_help(name: str) -> None:
    help_ = _commands()[name].format_help()
    assert EXAMPLES[name]
    assert all(example in help_ for example in EXAMPLES[name])


@pytest.mark.parametrize("example", [each for shown in EXAMPLES.values() for each in shown])
def test_an_example_can_be_typed(example: str) -> None:
    command = example.partition(" > ")[0].partition(" < ")[0]
    program, *arguments = shlex.split(command)
    assert program == "engineforge"
    assert parser().parse_args(arguments).module


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_names_commands_and_options(forge: Forge, shell: str) -> None:
    pytest.importorskip("shtab", reason="python -m pip install 'shtab>=1.9.3'")
    done = forge.run("completion", shell)
    assert done.code == 0, done.err
    assert "import-trtexec" in done.out
    assert "keep-going" in done.out


def _complete(script: Path, typed: str) -> list[str]:
    """What bash would offer behind what is typed."""
    words = typed.split(" ")
    asked = f"""
        source {shlex.quote(str(script))}
        COMP_WORDS=({" ".join(map(shlex.quote, words))})
        COMP_CWORD={len(words) - 1}
        COMP_LINE={shlex.quote(typed)}
        COMP_POINT=${{#COMP_LINE}}
        $(complete -p engineforge | sed 's/.*-F \\([^ ]*\\).*/\\1/')
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "-c", asked], capture_output=True, text=True, check=True, cwd=script.parent
    )
    return [line.strip() for line in done.stdout.splitlines()]


def test_bash_completes(forge: Forge) -> None:
    pytest.importorskip("shtab", reason="python -m pip install 'shtab>=1.9.3'")
    script = forge.root / "engineforge.bash"
    script.write_text(forge.run("completion", "bash").out)
    assert _complete(script, "engineforge import-") == ["import-trtexec"]
    assert "--keep-going" in _complete(script, "engineforge build --kee")
    assert "specs" in [each.rstrip("/") for each in _complete(script, "engineforge build sp")]
    assert _complete(script, "engineforge schema env") == ["environments"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_a_completion_is_a_script_of_its_shell(forge: Forge, shell: str) -> None:
    pytest.importorskip("shtab", reason="python -m pip install 'shtab>=1.9.3'")
    if shutil.which(shell) is None:
        pytest.skip(f"apt-get install {shell}")
    done = subprocess.run(
        [shell, "-n"], input=forge.run("completion", shell).out, text=True, capture_output=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
