"""Engines that were pulled, read by the runtime: under any name, and while they are replaced."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

pytest.importorskip("cryptography", reason="python -m pip install 'engineforge[promotion]'")

from engineforge.errors import StoreCorrupt
from engineforge.promotion.pulling import pull
from engineforge.runtime.engine_file import read_engine
from tests.promotion.shelf import NOW, Shelf

SHORT, LONG = b"short" * 20_000, b"longer" * 30_000


def test_a_pulled_engine_is_verified_under_any_name(tmp_path: Path) -> None:
    shelf, output = Shelf(tmp_path), tmp_path / "ocr.plan"
    shelf.promote(shelf.artifact(SHORT))
    assert pull(shelf.open(), shelf.wanted(output), now=NOW).engine == read_engine(output).sha256
    output.write_bytes(b"S" + SHORT[1:])
    with pytest.raises(StoreCorrupt, match="it was changed, or is another file"):
        read_engine(output)


def test_an_engine_can_be_read_while_it_is_replaced(tmp_path: Path) -> None:
    shelf, output = Shelf(tmp_path), tmp_path / "model.engine"
    artifacts = [shelf.artifact(SHORT), shelf.artifact(LONG)]
    shelf.promote(artifacts[0])
    pull(shelf.open(), shelf.wanted(output), now=NOW)
    read, errors, stop = [0], [], threading.Event()

    def reader() -> None:
        while not stop.is_set():
            try:
                read_engine(output)
                read[0] += 1
            except StoreCorrupt as error:
                errors.append(error)

    thread = threading.Thread(target=reader)
    thread.start()
    try:
        for at in range(1, 20):
            shelf.promote(artifacts[at % 2])
            pull(shelf.open(), shelf.wanted(output), now=NOW)
    finally:
        stop.set()
        thread.join()
    assert errors == []
    assert read[0] > 20
