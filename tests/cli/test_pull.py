"""`engineforge pull`, and the same as a call of a server: with this process's GPUs and clock."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("cryptography", reason="python -m pip install 'engineforge[promotion]'")

import engineforge
from engineforge.cli import pull as command
from engineforge.digest import digest_bytes
from engineforge.errors import HostUnfit, PromotionRefused, UsageError
from engineforge.promotion.pulling import Pulled
from engineforge.runtime.engine_file import read_engine
from tests.promotion.shelf import Shelf

ENGINE = b"an engine" * 100


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    made = Shelf(tmp_path)
    made.promote(made.artifact(ENGINE))
    return made


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that has none, or hides those that it has."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def args(shelf: Shelf, what: str = "staging/ocr", **more: Any) -> argparse.Namespace:  # noqa: ANN401
    known: dict[str, Any] = {
        "what": what,
        "output": str(shelf.root / "model.engine"),
        "environments": str(shelf.file),
        "variant": None,
        "target": "h200",
        "gpu": None,
        "watch": False,
        "every": 60,
        "no_overridden": False,
        "json": False,
    }
    return argparse.Namespace(**{**known, **more})


def test_a_server_calls_the_package(shelf: Shelf) -> None:
    found: Pulled = engineforge.pull(
        "staging/ocr",
        shelf.root / "model.engine",
        environments=shelf.file,
        target="h200",
        load=lambda path: read_engine(path).sha256,
    )
    assert found.loaded == found.engine == digest_bytes(ENGINE)


def test_a_server_follows_until_it_is_told_to_stop(shelf: Shelf) -> None:
    stopped: list[bool] = []
    numbers = []
    for found in engineforge.follow(
        "staging/ocr",
        shelf.root / "model.engine",
        every=0.01,
        stop=lambda: bool(stopped),
        environments=shelf.file,
        target="h200",
    ):
        numbers.append(found.number)
        if found.number == 1:
            shelf.promote(shelf.artifact(b"another"))
        else:
            stopped.append(True)
    assert numbers == [1, 2]
    assert engineforge.fall_back(shelf.root / "model.engine") is False


def test_the_package_has_nothing_else_that_is_made_up() -> None:
    assert {"pull", "follow", "fall_back"} <= set(dir(engineforge))
    with pytest.raises(AttributeError, match="has no attribute 'push'"):
        engineforge.push  # type: ignore[attr-defined]  # noqa: B018


def test_importing_the_package_imports_nothing_of_it() -> None:
    code = "import sys, engineforge; print([m for m in sys.modules if 'engineforge.' in m])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


def test_what_was_pulled_is_told(shelf: Shelf, capsys: pytest.CaptureFixture[str]) -> None:
    path = shelf.root / "model.engine"
    assert command.run(args(shelf)) == 0
    assert command.run(args(shelf)) == 0
    digest = f"  engine  {digest_bytes(ENGINE)}, {len(ENGINE)} bytes\n"
    why = "  why     its target was asked for\n"
    first = f"{path}  staging/ocr fp16@h200, number 1"
    assert capsys.readouterr().out == (
        f"{first}\n{digest}{why}{first}, which was there\n{digest}{why}"
    )


def test_what_was_pulled_is_told_to_machines(
    shelf: Shelf, capsys: pytest.CaptureFixture[str]
) -> None:
    command.run(args(shelf, json=True))
    found = json.loads(capsys.readouterr().out)
    assert (found["engine"], found["number"], found["changed"]) == (digest_bytes(ENGINE), 1, True)
    assert found["path"] == str(shelf.root / "model.engine")


@pytest.mark.usefixtures("no_gpu")
def test_on_a_host_without_a_gpu_all_targets_are_told(shelf: Shelf) -> None:
    with pytest.raises(HostUnfit, match="this host shows no NVIDIA GPU"):
        command.run(args(shelf, target=None))


@pytest.mark.usefixtures("no_gpu")
def test_a_gpu_that_is_not_there_is_told(shelf: Shelf) -> None:
    with pytest.raises(UsageError, match="there is no GPU '3' here"):
        command.run(args(shelf, target=None, gpu="3"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"what": "ocr"}, "'ocr' is no ENVIRONMENT/SPEC"),
        ({"what": "stagin/ocr"}, "there is no environment 'stagin'"),
        ({"environments": "nowhere.yaml"}, "there is no file 'nowhere.yaml', which says where"),
        ({"output": "nowhere/"}, "there is no folder 'nowhere'"),
        ({"gpu": "0"}, "a target is fetched for whichever GPU"),
        ({"target": "orin"}, "'staging/ocr' has no target 'orin'"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_what_cannot_be_meant_is_told(shelf: Shelf, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        command.run(args(shelf, **change))


def test_overridden_gates_can_be_refused(shelf: Shelf) -> None:
    shelf.promote(shelf.artifact(b"stale"), overridden={"freshness": "stale"})
    with pytest.raises(PromotionRefused, match="did not pass"):
        command.run(args(shelf, no_overridden=True))
