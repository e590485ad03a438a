"""Shell text to the commands of trtexec in it."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engineforge.drafting.shell import Command, Unreadable, commands, flags

_WORDS = st.lists(st.text(st.characters(codec="utf-8"), min_size=0), max_size=6)


def _arguments(text: str) -> list[tuple[str, ...]]:
    return [command.arguments for command in commands(text)]


@pytest.mark.parametrize(
    "before",
    [
        "",
        "./",
        "/usr/src/tensorrt/bin/",
        "$ ",
        "!",
        "sudo ",
        "CUDA_VISIBLE_DEVICES=1 ",
        "time nice -n 5 ",
        "root@host:/w# ",
        "PS C:\\Users\\me> ",
        "(env) C:\\x>",
        "cd x && ",
        "python export.py; ",
        "# first\n",
        "docker run --gpus all -v $(pwd):/w nvcr.io/nvidia/tensorrt:24.06-py3 ",
        "&&&& RUNNING TensorRT.trtexec [TensorRT v8601] # /usr/bin/",
    ],
)
def test_what_stands_before_trtexec_is_left_out(before: str) -> None:
    assert _arguments(f"{before}trtexec --fp16") == [("--fp16",)]


@pytest.mark.parametrize(
    "after",
    [" > log", " 2>&1 | tee log", ">log 2>&1", " &> log", " # why", "; ls", " && ls", "\nls"],
)
def test_what_stands_behind_it_is_left_out(after: str) -> None:
    assert _arguments(f"trtexec --fp16{after}") == [("--fp16",)]


def test_lines_go_on_behind_a_backslash() -> None:
    assert _arguments("trtexec \\\n  --onnx=m.onnx \\\r\n --fp16 \\\n") == [
        ("--onnx=m.onnx", "--fp16")
    ]


def test_a_script_has_several_commands() -> None:
    script = "set -e\nfor m in a b; do\n  trtexec --onnx=$m.onnx\ndone\ntrtexec --onnx=c.onnx &\n"
    assert _arguments(script) == [("--onnx=$m.onnx",), ("--onnx=c.onnx",)]


def test_a_log_says_its_command_once() -> None:
    log = (
        "&&&& RUNNING TensorRT.trtexec [TensorRT v101602] [b10] # trtexec --onnx=a.onnx\n"
        "[I] === Model Options ===\n[I] it's\n"
        "&&&& PASSED TensorRT.trtexec [TensorRT v101602] [b10] # trtexec --onnx=a.onnx\n"
    )
    assert _arguments(log) == [("--onnx=a.onnx",)]


@pytest.mark.parametrize(
    "text",
    [
        "bash -c 'trtexec --fp16'",
        'cmd="~/bin/trtexec \\\n--fp16"',
        "docker run x sh -c 'trtexec --fp16'",
    ],
)
def test_a_command_inside_of_a_word_is_found(text: str) -> None:
    assert _arguments(text) == [("--fp16",)]


def test_a_container_is_remembered() -> None:
    (command,) = commands("docker run x sh -c 'trtexec --fp16'")
    assert command.container == "docker"


@pytest.mark.parametrize("text", ["trtexec", "which trtexec", "ls", "", "alias t=/usr/bin/trtexec"])
def test_no_command_is_no_command(text: str) -> None:
    assert commands(text) == []


@pytest.mark.parametrize("text", ["trtexec --onnx='a", 'trtexec --onnx="a', "trtexec --onnx=$(a"])
def test_a_quote_that_is_not_closed_is_said(text: str) -> None:
    with pytest.raises(Unreadable):
        commands(text)


@given(_WORDS)
def test_words_are_those_of_a_shell(words: list[str]) -> None:
    text = shlex.join(["trtexec", "--x", *words])
    assert commands(text) == [Command(arguments=("--x", *words))]


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["--a=1"], [("a", "1")]),
        (["--a", "1"], [("a", "1")]),
        (["--a", "=", "1"], [("a", "1")]),
        (["--a=", "1"], [("a", "1")]),
        (["--b", "1"], [("b", None), ("", "1")]),
        (["--b=true"], [("b", "true")]),
        (["--a", "--b"], [("a", None), ("b", None)]),
        (["-h"], [("-h", None)]),
        (["x"], [("", "x")]),
        (["--a=b=c"], [("a", "b=c")]),
    ],
)
def test_values_stand_behind_equals_signs_and_spaces(
    arguments: list[str], found: list[tuple[str, str | None]]
) -> None:
    assert list(flags(arguments, frozenset({"a"}))) == found
