"""`--paranoid` against an index that lies: sound in its form, and wrong in what it remembers."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from engineforge.store.index import opened
from engineforge.store.index_file import Part, written
from engineforge.store.known import STAT, Block, Known
from tests.conftest import SPEC, Forge

_DIGESTS, _ENTRIES = 1, 6
"""Where they stand in the index; the first of it is its format."""

_CALIBRATED = f"""\
{SPEC.partition("variants:")[0]}variants:
  int8: {{precision: int8, calibration: {{data: data.npz}}}}
checks:
  accuracy: {{data: holdout.npz, max_relative_error: 0.5}}
"""


def _tampered(
    forge: Forge, change: Callable[[list[Any]], None], of_specs: Callable[[Known], None]
) -> None:
    """What is remembered is changed, and what is known of whole specs too."""
    path = forge.cache / "index"
    with opened(path) as file:
        records = []
        for part in file.records:
            tables = msgspec.msgpack.decode(file.read(part))
            change(tables)
            records.append(Part.of(msgspec.msgpack.encode(tables)))
        for folder in file.folders.values():
            folder.blocks = [_block(file.read(part), of_specs) for part in folder.blocks]
    path.write_bytes(b"".join(written(file.folders, records, None)))


def _block(data: bytes, change: Callable[[Known], None]) -> Part:
    known = list(Block(data).all())
    for each in known:
        change(each)
    return Part.of(Block.of(known), known[0].spec)


def _stat(path: Path) -> list[int]:
    found = path.stat()
    times = [found.st_mtime_ns, found.st_ctime_ns]
    return [found.st_dev, found.st_ino, found.st_size, *times]


def _changed_unseen(forge: Forge, path: Path, data: bytes | None = None) -> None:
    """Other bytes, as many, and an index that says that the file is as it was."""
    before = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(data or before[:-1] + bytes([before[-1] ^ 1]))
    path.chmod(0o444)
    now = _stat(path)
    assert now[2] == len(before)

    def lie(tables: list[Any]) -> None:
        if (remembered := tables[_DIGESTS].get(f"{now[0]}:{now[1]}")) is not None:
            remembered[0] = now
        for _, files in tables[_ENTRIES].values():
            for file in files:
                if file[1][:2] == now[:2]:
                    file[1] = now

    def lie_of_specs(known: Known) -> None:
        for at in range(0, len(known.stats), STAT):
            if list(known.stats[at : at + 2]) == now[:2]:
                known.stats[at : at + STAT] = array("q", now)

    _tampered(forge, lie, lie_of_specs)


def _states(forge: Forge, *args: str) -> list[str]:
    return [each["state"] for each in forge.run("plan", "specs", "--json", *args).json["variants"]]


def _a_model(forge: Forge) -> Path:
    return forge.model


def _an_engine(forge: Forge) -> Path:
    (engine,) = forge.engines()
    return engine


@pytest.mark.parametrize("file", [_a_model, _an_engine])
def test_a_change_that_the_index_hides_is_found(
    built: Forge, file: Callable[[Forge], Path]
) -> None:
    _changed_unseen(built, file(built))
    assert _states(built) == ["up-to-date"]
    assert _states(built, "--paranoid") == ["stale"]


@pytest.mark.parametrize("options", [(), ("--with", "tensorrt_rtx=1.7.1.116")])
def test_what_was_found_holds_for_those_who_trust_the_index_afterwards(
    built: Forge, options: tuple[str, ...]
) -> None:
    _changed_unseen(built, built.model)
    assert built.at_a_glance("build")
    _states(built, "--paranoid", *options)
    assert not built.at_a_glance()
    assert _states(built) == ["stale"]


def test_a_broken_engine_that_the_index_vouches_for_is_said_and_built_again(built: Forge) -> None:
    _changed_unseen(built, _an_engine(built))
    result = built.build("--paranoid")
    assert result.outcomes() == {"fp32@ada": "built"}
    assert "is corrupt" in result.err
    assert len(list((built.cache / "quarantine").iterdir())) == 1
    assert built.at_a_glance("build")


def test_a_changed_calibration_sample_that_the_index_hides_is_found(forge: Forge) -> None:
    needed = "needs: python -m pip install 'engineforge[precision]'"
    pytest.importorskip("onnxruntime", reason=needed)
    forge.spec("net", _CALIBRATED)
    for name, seed, count in (("data", 1, 8), ("holdout", 2, 32), ("other", 3, 8)):
        images = np.random.default_rng(seed).standard_normal((count, 3, 16, 16))
        np.savez(forge.specs / f"{name}.npz", image=images.astype(np.float32))
    assert forge.build().code == 0
    _changed_unseen(forge, forge.specs / "data.npz", (forge.specs / "other.npz").read_bytes())
    assert _states(forge) == ["up-to-date"]
    assert _states(forge, "--paranoid") == ["stale"]
