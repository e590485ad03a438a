"""`--gpus`: which GPUs children see, of those that CUDA_VISIBLE_DEVICES shows."""

from __future__ import annotations

import argparse

import pytest

from engineforge.cli.world import environment
from engineforge.errors import UsageError

_SHOWN = "CUDA_VISIBLE_DEVICES"


def _left(monkeypatch: pytest.MonkeyPatch, shown: str | None, gpus: str | None) -> str | None:
    """What children are shown, where this process is shown that and is asked for these."""
    if shown is None:
        monkeypatch.delenv(_SHOWN, raising=False)
    else:
        monkeypatch.setenv(_SHOWN, shown)
    return environment(argparse.Namespace(gpus=gpus)).get(_SHOWN)


@pytest.mark.parametrize("shown", [None, "1,3", "GPU-a"])
def test_without_the_option_children_see_what_this_process_sees(
    monkeypatch: pytest.MonkeyPatch, shown: str | None
) -> None:
    assert _left(monkeypatch, shown, None) == shown


def test_commands_without_the_option_see_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(_SHOWN, "2")
    assert environment(argparse.Namespace())[_SHOWN] == "2"


@pytest.mark.parametrize(
    ("shown", "gpus", "left"),
    [
        (None, "0", "0"),
        (None, "1,0", "1,0"),
        (None, "GPU-a,MIG-b", "GPU-a,MIG-b"),
        ("2,3", "0", "2"),
        ("2,3", "1,0", "3,2"),
        ("GPU-a,GPU-b", "1", "GPU-b"),
        ("GPU-a,MIG-b", "MIG-b", "MIG-b"),
        ("GPU-a,GPU-b", "0,GPU-a", "GPU-a"),
        (None, "0,0", "0"),
    ],
)
def test_numbers_count_what_is_shown_and_uuids_are_themselves(
    monkeypatch: pytest.MonkeyPatch, shown: str | None, gpus: str, left: str
) -> None:
    assert _left(monkeypatch, shown, gpus) == left


def test_a_number_beyond_what_is_shown_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="--gpus: there is no GPU 2") as error:
        _left(monkeypatch, "4,5", "2")
    assert error.value.hint == "CUDA_VISIBLE_DEVICES leaves 2, which are counted from 0"


@pytest.mark.parametrize("gpus", ["GPU-c", "GPU-a,GPU-c"])
def test_a_uuid_that_is_not_shown_is_an_error(monkeypatch: pytest.MonkeyPatch, gpus: str) -> None:
    message = "--gpus: 'GPU-c' is not among CUDA_VISIBLE_DEVICES=GPU-a,GPU-b"
    with pytest.raises(UsageError, match=message):
        _left(monkeypatch, "GPU-a,GPU-b", gpus)


@pytest.mark.parametrize("gpus", ["", "0,", ",0", "foo", "-1", "all", "0-3", "1.5", "0 1", "٣"])
def test_nonsense_is_no_gpu(monkeypatch: pytest.MonkeyPatch, gpus: str) -> None:
    with pytest.raises(UsageError, match=r"--gpus: '.*' is no GPU"):
        _left(monkeypatch, None, gpus)


def test_the_rest_of_the_environment_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/somewhere")
    assert environment(argparse.Namespace(gpus="0"))["LD_LIBRARY_PATH"] == "/somewhere"
