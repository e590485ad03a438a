"""`engineforge lock`: what it resolves, adds, updates, removes and checks."""

from __future__ import annotations

import hashlib
import json
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from engineforge.cli import lock as command
from engineforge.errors import EngineForgeError, SpecError, UsageError
from engineforge.spec import lock as locks
from engineforge.spec.lock import Lock
from tests.store.web_server import Site, site

TARGETS = """\
ada: {backend: tensorrt_rtx, version: 1.7.1.116, compute_capabilities: [8.9]}
"""


@pytest.fixture
def server() -> Iterator[Site]:
    with site() as made:
        made.files |= {f"/{name}.onnx": name.encode() for name in ("one", "two", "three")}
        yield made


@dataclass
class Folder:
    root: Path
    server: Site
    capture: pytest.CaptureFixture[str]

    @property
    def path(self) -> Path:
        return self.root / "specs" / "engineforge.lock"

    def spec(self, name: str, source: str) -> None:
        source = source.replace("$", self.server.url)
        (self.root / "specs" / f"{name}.yaml").write_text(
            f"model: {{source: {source}}}\ntargets: [ada]\n"
        )

    def run(self, *paths: str, update: list[str] | None = None, check: bool = False) -> Any:  # noqa: ANN401
        """The exit code, and what was printed as JSON."""
        self.capture.readouterr()
        code = command.run(
            Namespace(
                paths=[str(self.root / path) for path in paths or ("specs",)],
                cache=None,
                update=None
                if update is None
                else [x.replace("$", self.server.url) for x in update],
                check=check,
                json=True,
            )
        )
        return code, json.loads(self.capture.readouterr().out)

    def states(self, *paths: str, update: list[str] | None = None) -> dict[str, str]:
        code, found = self.run(*paths, update=update)
        assert code == 0
        return {
            each["url"].rpartition("/")[2].removesuffix(".onnx"): each["state"]
            for each in found["files"]
        }

    @property
    def lock(self) -> Lock:
        return locks.read(self.path)


@pytest.fixture
def folder(
    tmp_path: Path,
    server: Site,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Folder:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs" / "targets.yaml").write_text(TARGETS)
    made = Folder(tmp_path, server, capsys)
    made.spec("one", "{url: '$/one.onnx'}")
    return made


def test_what_a_spec_names_without_its_sha256_is_added(folder: Folder) -> None:
    assert folder.states() == {"one": "added"}
    (entry,) = folder.lock.entries.values()
    assert entry.sha256 == hashlib.sha256(b"one").hexdigest()
    assert folder.states() == {"one": "unchanged"}
    assert len(folder.server.seen) == 1


def test_external_data_is_locked_too(folder: Folder) -> None:
    folder.spec("one", "{url: '$/one.onnx', external: [{url: '$/two.onnx'}]}")
    assert folder.states() == {"one": "added", "two": "added"}


def test_what_has_its_sha256_is_in_no_lock(folder: Folder) -> None:
    folder.spec("one", f"{{url: '$/one.onnx', sha256: {'a' * 64}}}")
    assert folder.states() == {}
    assert not folder.path.exists()
    assert folder.server.seen == []


def test_only_the_specs_that_are_asked_for_are_resolved(folder: Folder) -> None:
    folder.spec("two", "{url: '$/two.onnx'}")
    assert folder.states("specs/two.yaml") == {"two": "added"}
    assert folder.states() == {"one": "added", "two": "unchanged"}


def test_what_no_spec_of_the_folder_names_any_more_is_removed(folder: Folder) -> None:
    folder.spec("two", "{url: '$/two.onnx'}")
    folder.states()
    folder.spec("one", "{url: '$/three.onnx'}")
    assert folder.states("specs/two.yaml") == {"one": "removed", "two": "unchanged"}


def test_a_file_that_changed_stays_as_it_was_locked(folder: Folder) -> None:
    folder.states()
    folder.server.files["/one.onnx"] = b"changed"
    before = folder.path.read_bytes()
    assert folder.states() == {"one": "unchanged"}
    assert folder.path.read_bytes() == before


@pytest.mark.parametrize("update", [[], ["$/one.onnx"]])
def test_update_resolves_anew(folder: Folder, update: list[str]) -> None:
    folder.spec("two", "{url: '$/two.onnx'}")
    folder.states()
    folder.server.files |= {"/one.onnx": b"changed", "/two.onnx": b"changed"}
    expected = {"one": "changed", "two": "unchanged" if update else "changed"}
    assert folder.states(update=update) == expected


def test_an_update_of_what_no_spec_names_is_refused(folder: Folder) -> None:
    with pytest.raises(UsageError, match="no spec names"):
        folder.run(update=["https://example.com/another.onnx"])


def test_what_fails_keeps_its_entry_and_the_others_are_written(folder: Folder) -> None:
    folder.states()
    del folder.server.files["/one.onnx"]
    folder.spec("two", "{url: '$/two.onnx'}")
    code, found = folder.run(update=[])
    assert code == EngineForgeError.exit_code
    assert [each["state"] for each in found["files"]] == ["unchanged", "added"]
    assert [each["error"] for each in found["failed"]] == [
        f"there is no '{folder.server.url}/one.onnx': the server answers 404 Not Found"
    ]
    assert len(folder.lock.entries) == 2


def test_check_touches_nothing_and_asks_nobody(folder: Folder) -> None:
    folder.states()
    folder.spec("one", "{url: '$/two.onnx'}")
    before, asked = folder.path.read_bytes(), len(folder.server.seen)
    code, found = folder.run(check=True)
    assert code == EngineForgeError.exit_code
    assert found["missing"] == [f"{folder.server.url}/two.onnx"]
    assert found["unused"] == [f"{folder.server.url}/one.onnx"]
    assert folder.path.read_bytes() == before
    assert len(folder.server.seen) == asked


def test_check_of_a_lock_that_fits_passes(folder: Folder) -> None:
    folder.states()
    code, found = folder.run(check=True)
    assert (code, found["missing"], found["unused"]) == (0, [], [])


def test_check_says_where_what_is_missing_is_named(folder: Folder) -> None:
    folder.capture.readouterr()
    args = Namespace(
        paths=[str(folder.root / "specs")], cache=None, update=None, check=True, json=False
    )
    assert command.run(args) == EngineForgeError.exit_code
    assert (
        "one.yaml:1:18: model.source.url: 'engineforge.lock' does not say which file this is"
        in (folder.capture.readouterr().err)
    )


def test_what_is_done_is_said(folder: Folder) -> None:
    args = Namespace(
        paths=[str(folder.root / "specs")], cache=None, update=None, check=False, json=False
    )
    folder.capture.readouterr()
    assert command.run(args) == 0
    said = folder.capture.readouterr()
    digest = hashlib.sha256(b"one").hexdigest()[:12]
    assert said.out.splitlines() == [
        f"added    {folder.server.url}/one.onnx  {digest}, 3 B",
        f"{folder.path}: 1 file, written",
    ]
    assert said.err == f"fetching {folder.server.url}/one.onnx, 3 B\n"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{url: 'https://me:hunter2@example.com/a'}", "one.yaml:1:18: model.source.url: the URL"),
        ("{url: 'hf://org/repo'}", "one.yaml:1:18: model.source.url: 'hf://org/repo' names no"),
        ("{}", "one.yaml:1:9: model.source: "),
    ],
)
def test_a_spec_that_does_not_say_which_file_says_so_itself(
    folder: Folder, source: str, said: str
) -> None:
    folder.spec("one", source)
    with pytest.raises(SpecError) as caught:
        folder.run()
    assert said in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_what_is_wrong_elsewhere_in_a_spec_does_not_matter(folder: Folder) -> None:
    path = folder.root / "specs" / "one.yaml"
    path.write_text(path.read_text() + "variantes: {}\n")
    assert folder.states() == {"one": "added"}
