"""Entries are handed out when every byte was hashed and none was touched since."""

from __future__ import annotations

from pathlib import Path

import pytest

from engineforge.digest import digest_value
from engineforge.store.index import Index
from engineforge.store.local import Entry, LocalStore
from engineforge.store.stats import folder_stats
from engineforge.store.trust import whole

_KEY = {"format": 1}


@pytest.fixture
def entry(tmp_path: Path) -> Entry:
    store = LocalStore(tmp_path / "cache")
    with store.session() as session, session.staged() as staged:
        (staged / "model.engine").write_bytes(b"engine")
        made, _ = store.publish(staged, stage="engine", key_document=_KEY, digests={}, record={})
    return made


def _flip(entry: Entry) -> None:
    file = entry.file("model.engine")
    file.chmod(0o644)
    file.write_bytes(b"Engine")


def test_an_entry_is_hashed_once(tmp_path: Path, entry: Entry) -> None:
    store, index = LocalStore(tmp_path / "cache"), Index(tmp_path / "cache")
    for _ in range(2):
        assert whole(store, index, "engine", digest_value(_KEY)) == entry
    assert (index.files_hashed, index.bytes_hashed) == (1, 6)


def test_what_changes_after_its_stats_were_taken_is_not_trusted(
    tmp_path: Path, entry: Entry
) -> None:
    index = Index(tmp_path / "cache")
    stats = folder_stats(entry.path)
    _flip(entry)
    index.know_entry("engine", entry.manifest.key.hex, stats)
    assert not index.entry_is_known("engine", entry.manifest.key.hex, entry.path)
    store = LocalStore(tmp_path / "cache")
    assert whole(store, index, "engine", entry.manifest.key) is None
    assert len(store.faults) == 1
