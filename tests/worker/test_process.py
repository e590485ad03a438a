"""A child process seen from its parent: what it answers, and how its end is put into words."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engineforge.worker.process import Child, Crashed, Refused
from tests.models import convnet
from tests.worker.conftest import until


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    made = Child(tmp_path / "child.log", os.environ)
    yield made
    made.close()


def test_it_answers_one_request_after_another(child: Child, tmp_path: Path) -> None:
    for seed in range(3):
        model = convnet(tmp_path / "net.onnx", seed=seed)
        answer = child.ask({"op": "inspect", "model": model})
        assert [each["name"] for each in answer["inputs"]] == ["image"]


def test_what_it_refuses_is_said_in_its_words(child: Child, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"no model")
    with pytest.raises(Refused, match=r"'net\.onnx'"):
        child.ask({"op": "inspect", "model": tmp_path / "net.onnx"})


def test_after_a_refusal_it_answers_the_next(child: Child, tmp_path: Path) -> None:
    with pytest.raises(Refused):
        child.ask({"op": "inspect", "model": tmp_path / "missing.onnx"})
    model = convnet(tmp_path / "net.onnx")
    assert child.ask({"op": "inspect", "model": model})["nodes"] == 5


def test_a_bug_in_it_is_a_crash_with_the_traceback_in_its_log(child: Child) -> None:
    with pytest.raises(Crashed, match="ended with exit code 1, without an answer"):
        child.ask({"op": "no such operation"})
    assert child.log_tail()[-1] == "KeyError: 'no such operation'"


def test_a_child_that_was_killed_says_why(child: Child, tmp_path: Path) -> None:
    child.kill("interrupted")
    with pytest.raises(Crashed, match=re.escape("the process was killed: interrupted")):
        child.ask({"op": "inspect", "model": tmp_path / "net.onnx"})


def test_it_is_killed_when_it_takes_too_long(child: Child, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "net.onnx")  # nobody ever writes to it
    with pytest.raises(Crashed, match=re.escape("it took more than 0.2 s")):
        child.ask({"op": "inspect", "model": tmp_path / "net.onnx"}, timeout=0.2)


def test_a_kill_from_another_thread_ends_a_request(child: Child, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "net.onnx")
    threading.Timer(0.2, child.kill, ["interrupted"]).start()
    with pytest.raises(Crashed, match="interrupted"):
        child.ask({"op": "inspect", "model": tmp_path / "net.onnx"})


def test_it_sees_of_the_environment_only_what_changes_no_engine(tmp_path: Path) -> None:
    environment = {**os.environ, "NVIDIA_TF32_OVERRIDE": "0", "CUDA_VISIBLE_DEVICES": "1"}
    made = Child(tmp_path / "child.log", environment)
    (process,) = (
        each
        for each in Path("/proc").iterdir()
        if each.name.isdigit() and _works_in(each, tmp_path)
    )
    with pytest.raises(Refused):
        made.ask({"op": "inspect", "model": tmp_path / "missing"})
    seen = (process / "environ").read_bytes().split(b"\0")
    made.close()
    assert b"CUDA_VISIBLE_DEVICES=1" in seen
    assert not [each for each in seen if each.startswith(b"NVIDIA_")]


def _works_in(process: Path, folder: Path) -> bool:
    try:
        return os.readlink(process / "cwd") == str(folder)  # noqa: PTH115 - it may be gone
    except OSError:
        return False


def test_one_that_loads_what_nobody_needs_any_more_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "lasting.py").write_text(
        "import pathlib, time\npathlib.Path('begun').touch()\ntime.sleep(60)\n"
    )
    child = Child(tmp_path / "child.log", {**os.environ, "PYTHONPATH": str(tmp_path)})
    child.tell({"op": "load", "module": "lasting"})
    until((tmp_path / "begun").exists)
    began = time.monotonic()
    child.close()
    assert time.monotonic() - began < 30
