from __future__ import annotations

import contextlib
import errno
import itertools
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tritonclient", reason="python -m pip install 'engineforge[triton]'")

from engineforge.digest import digest_file
from engineforge.errors import EngineForgeError, UsageError
from engineforge.promotion.triton.engines import Exported
from engineforge.promotion.triton.repository import Written, export
from engineforge.promotion.triton.schema import Schema
from engineforge.store import disk
from tests.promotion.triton import engine


class Served:
    """A model repository, and what a Triton that scans it at this moment finds there."""

    def __init__(self, root: Path) -> None:
        self.root = root / "models"
        self.beside = root

    def export(self, *engines: Exported, number: int = 1, **more: Any) -> Written:  # noqa: ANN401
        asked: dict[str, Any] = {"environment": "staging", "name": "ocr", **more}
        return export(engines, repository=self.root, number=number, **asked)

    @property
    def model(self) -> Path:
        return self.root / "ocr"

    def config(self) -> Any:  # noqa: ANN401 - protobuf's ModelConfig
        return Schema().read(self.model / "config.pbtxt")

    def versions(self) -> list[int]:
        return sorted(int(each.name) for each in self.model.iterdir() if each.name.isdigit())

    def serves(self) -> dict[str, bytes] | None:
        """What each GPU would load, by compute capability; None while there is no model. Asserts
        that every folder is a model, and every version that is served whole."""
        if not self.root.exists() or not list(self.root.iterdir()):
            return None
        assert [each.name for each in self.root.iterdir()] == ["ocr"]
        config = self.config()
        (version,) = config.version_policy.specific.versions
        folder = self.model / str(version)
        loaded = {}
        for capability, name in config.cc_model_filenames.items():
            target = {"9.0": "h200", "8.9": "l4"}[capability]
            said = config.parameters[f"engineforge.sha256.{target}"].string_value
            assert digest_file(folder / name) == said
            loaded[capability] = (folder / name).read_bytes()
        return loaded

    def leftovers(self) -> list[str]:
        """What is beside the repository, of exports."""
        return [each.name for each in self.beside.iterdir() if each.name.startswith(".")]

    def state(self) -> dict[str, tuple[int, int]]:
        """All that would tell a change: inode and time of each file and folder."""
        return {
            str(each.relative_to(self.root)): (each.stat().st_ino, each.stat().st_mtime_ns)
            for each in [self.root, *self.root.rglob("*")]
        }


@pytest.fixture
def triton(tmp_path: Path) -> Served:
    (tmp_path / "served").mkdir()
    return Served(tmp_path / "served")


ONE, TWO, OTHER = b"first" * 50_000, b"second" * 50_000, b"other" * 50_000


@pytest.fixture
def first(tmp_path: Path) -> Exported:
    return engine(tmp_path, bytes_=ONE)


@pytest.fixture
def second(tmp_path: Path) -> Exported:
    return engine(tmp_path, bytes_=TWO)


@pytest.fixture
def other(tmp_path: Path) -> Exported:
    """For other GPUs."""
    return engine(tmp_path, target="l4", gpu="8.9", bytes_=OTHER)


def test_a_model_is_a_configuration_and_a_version(triton: Served, first: Exported) -> None:
    done = triton.export(first, number=3)
    files = {
        str(each.relative_to(triton.root)) for each in triton.root.rglob("*") if each.is_file()
    }
    assert files == {"ocr/config.pbtxt", "ocr/3/model_9_0.engine"}
    assert triton.serves() == {"9.0": ONE}
    assert done.written == (triton.model,)
    assert done.version == triton.model / "3"
    assert done.needs == ("TensorRT 10.13.3.9",)


def test_engines_are_not_to_be_written_to(triton: Served, first: Exported) -> None:
    triton.export(first)
    assert (triton.model / "1" / "model_9_0.engine").stat().st_mode & 0o777 == 0o444


def test_the_next_promotion_is_another_version_and_alone_served(
    triton: Served, first: Exported, second: Exported
) -> None:
    triton.export(first, number=1)
    triton.export(second, number=2)
    assert triton.serves() == {"9.0": TWO}
    assert triton.versions() == [1, 2]
    assert (triton.model / "1" / "model_9_0.engine").read_bytes() == ONE


def test_an_earlier_state_is_served_again_when_it_is_exported(
    triton: Served, first: Exported, second: Exported
) -> None:
    triton.export(first, number=1)
    triton.export(second, number=2)
    done = triton.export(first, number=1)
    assert triton.serves() == {"9.0": ONE}
    assert done.written == (triton.model / "config.pbtxt",)


@pytest.mark.parametrize(("keep", "left"), [(1, [4]), (2, [3, 4]), (9, [1, 2, 3, 4])])
def test_so_many_versions_are_kept(
    triton: Served, first: Exported, keep: int, left: list[int]
) -> None:
    for number in (1, 2, 3):
        triton.export(first, number=number)
    done = triton.export(first, number=4, keep=keep)
    assert triton.versions() == left
    assert [each.name for each in done.removed] == [str(n) for n in range(1, 5) if n not in left]
    assert triton.leftovers() == []


def test_the_version_that_is_served_is_kept_first(triton: Served, first: Exported) -> None:
    for number in (1, 2, 3):
        triton.export(first, number=number)
    triton.export(first, number=1, keep=2)
    assert triton.versions() == [1, 3]


def test_the_same_export_again_changes_nothing(
    triton: Served, first: Exported, other: Exported
) -> None:
    triton.export(first, other)
    before = triton.state()
    done = triton.export(other, first)
    assert triton.state() == before
    assert (done.written, done.removed) == ((), ())


def test_a_configuration_that_says_the_same_is_not_written_again(
    triton: Served, first: Exported
) -> None:
    triton.export(first)
    config = triton.model / "config.pbtxt"
    config.write_text("# ours\n" + config.read_text())
    triton.export(first)
    assert config.read_text().startswith("# ours\n")


def test_engines_of_more_targets_join_a_version(
    triton: Served, first: Exported, other: Exported
) -> None:
    triton.export(first)
    triton.export(first, other)
    assert triton.serves() == {"9.0": ONE, "8.9": OTHER}


@pytest.mark.parametrize("there", [b"short", TWO[: len(ONE)]], ids=["size", "bytes"])
def test_a_version_is_never_changed(triton: Served, first: Exported, there: bytes) -> None:
    triton.export(first)
    path = triton.model / "1" / "model_9_0.engine"
    path.chmod(0o644)
    path.write_bytes(there)
    with pytest.raises(EngineForgeError, match="is there with other bytes"):
        triton.export(first)
    assert path.read_bytes() == there


def test_an_empty_folder_is_a_new_model(triton: Served, first: Exported) -> None:
    triton.model.mkdir(parents=True)
    triton.export(first)
    assert triton.serves() == {"9.0": ONE}


@pytest.mark.parametrize(
    ("files", "whose"),
    [
        ({"config.pbtxt": 'backend: "python"\n', "1/model.py": ""}, "is of something else"),
        ({"1/model.plan": "a plan"}, "is of something else"),
    ],
    ids=["configuration", "none"],
)
def test_a_model_of_somebody_elses_is_left_alone(
    triton: Served, first: Exported, files: Mapping[str, str], whose: str
) -> None:
    for name, text in files.items():
        (triton.model / name).parent.mkdir(parents=True, exist_ok=True)
        (triton.model / name).write_text(text)
    before = triton.state()
    with pytest.raises(EngineForgeError, match=whose):
        triton.export(first, number=2)
    assert triton.state() == before


def test_numbers_of_two_environments_are_not_mixed(triton: Served, first: Exported) -> None:
    triton.export(first)
    with pytest.raises(
        EngineForgeError, match="is of staging ocr fp16, not of production ocr fp16"
    ):
        triton.export(first, number=2, environment="production")


def test_a_configuration_that_cannot_be_read_is_left_alone(triton: Served, first: Exported) -> None:
    triton.export(first)
    (triton.model / "config.pbtxt").write_text("max_batch_size: eight")
    with pytest.raises(EngineForgeError, match=r"config.pbtxt' is no model configuration"):
        triton.export(first, number=2)
    assert triton.versions() == [1]


@pytest.mark.parametrize("name", ["", ".ocr", "a/b", "..", "ocr 2"])
def test_what_is_no_name_of_a_folder_is_no_name_of_a_model(
    triton: Served, first: Exported, name: str
) -> None:
    with pytest.raises(UsageError, match="is no name for a model"):
        triton.export(first, name=name)
    assert not triton.root.exists()


@pytest.mark.parametrize("asked", [{"keep": 0}, {"instances": 0}, {"number": 0}], ids=str)
def test_numbers_begin_with_one(triton: Served, first: Exported, asked: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="is 0, expected 1 or more"):
        triton.export(first, **asked)


def test_nothing_is_made_of_what_cannot_be_served(triton: Served, tmp_path: Path) -> None:
    with pytest.raises(EngineForgeError, match="does not refit"):
        triton.export(engine(tmp_path, builder={"strip_plan": True}))
    assert list(triton.beside.iterdir()) == []


def test_a_repository_on_a_file_system_of_its_own_is_refused(
    triton: Served, first: Exported
) -> None:
    def watch(change: disk.Change) -> None:
        if change.kind == "rename" and change.to == triton.model:
            raise OSError(errno.EXDEV, "Invalid cross-device link")

    with (
        disk.watched(watch),
        pytest.raises(EngineForgeError, match="is on another file system") as raised,
    ):
        triton.export(first)
    assert "give a folder in it as the repository" in str(raised.value)
    assert triton.leftovers() == []


def test_a_folder_that_must_not_be_written_to_is_said(triton: Served, first: Exported) -> None:
    def watch(change: disk.Change) -> None:
        if change.kind == "mkdir" and change.path.name == ".models.engineforge":
            raise PermissionError(errno.EACCES, "Permission denied")

    with (
        disk.watched(watch),
        pytest.raises(EngineForgeError, match="nothing can be made in") as raised,
    ):
        triton.export(first)
    assert "give one in a folder that may be written to" in str(raised.value)


def test_two_exports_at_once_are_both_whole(
    triton: Served, first: Exported, second: Exported
) -> None:
    failed: list[BaseException] = []

    def one(given: Exported, number: int) -> None:
        try:
            triton.export(given, number=number)
        except BaseException as error:
            failed.append(error)
            raise

    for turn in range(1, 20, 2):
        threads = [
            threading.Thread(target=one, args=each) for each in ((first, turn), (second, turn + 1))
        ]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert failed == []
        assert triton.serves() in ({"9.0": ONE}, {"9.0": TWO})
    assert triton.versions() == list(range(1, 21))
    assert triton.leftovers() == []


class Killed(BaseException):
    """The process is gone: nothing that it does afterwards reaches the disk."""


Step = tuple[Sequence[str], dict[str, Any]]
STEPS: Mapping[str, tuple[Sequence[Step], Step]] = {
    "a new model": ([], (["first"], {"number": 1})),
    "a new version": ([(["first"], {"number": 1})], (["second"], {"number": 2})),
    "one more target": ([(["first"], {"number": 1})], (["first", "other"], {"number": 1})),
    "only the newest": (
        [(["first"], {"number": 1}), (["second"], {"number": 2})],
        (["first"], {"number": 3, "keep": 1}),
    ),
}


@pytest.fixture(params=STEPS)
def step(
    request: pytest.FixtureRequest,
    triton: Served,
    first: Exported,
    second: Exported,
    other: Exported,
) -> Iterator[tuple[Sequence[Exported], dict[str, Any]]]:
    """One export, after those that led to it."""
    named = {"first": first, "second": second, "other": other}
    before, (names, asked) = STEPS[request.param]
    for earlier, how in before:
        triton.export(*(named[name] for name in earlier), **how)
    yield [named[name] for name in names], asked


def test_a_triton_that_scans_at_any_moment_finds_what_it_served_or_what_it_is_to_serve(
    triton: Served, step: tuple[Sequence[Exported], dict[str, Any]]
) -> None:
    engines, asked = step
    before = triton.serves()
    seen: list[dict[str, bytes] | None] = []

    def watch(change: disk.Change) -> None:
        found = triton.serves()
        if not seen or seen[-1] != found:
            seen.append(found)

    with disk.watched(watch):
        triton.export(*engines, **asked)
    after = triton.serves()
    assert seen == [before, after]


@pytest.mark.parametrize("kind", [Killed, OSError], ids=["killed", "full disk"])
def test_an_export_that_was_interrupted_anywhere_is_mended_by_the_next(
    triton: Served,
    step: tuple[Sequence[Exported], dict[str, Any]],
    kind: type[BaseException],
    tmp_path: Path,
) -> None:
    engines, asked = step
    before, after = triton.serves(), wanted(engines)
    kept = tmp_path / "kept"
    if triton.root.exists():
        shutil.copytree(triton.root, kept)
    for cut in itertools.count():
        shutil.rmtree(triton.root, ignore_errors=True)
        if kept.exists():
            shutil.copytree(kept, triton.root)
        with contextlib.suppress(kind), disk.watched(interrupting(cut, kind)):
            triton.export(*engines, **asked)
            break
        assert triton.serves() in (before, after)
        if kind is OSError:
            assert triton.leftovers() == []
        triton.export(*engines, **asked)
        assert triton.serves() == after
        assert triton.leftovers() == []
        if "keep" in asked:
            assert triton.versions() == [asked["number"]]
    assert cut > 10


def interrupting(after: int, kind: type[BaseException]) -> disk.Watch:
    """After so many changes there is no other; on a full disk there are such as free it."""
    left = after

    def watch(change: disk.Change) -> None:
        nonlocal left
        if left <= 0 and (kind is Killed or change.kind not in ("unlink", "rmdir")):
            raise kind(errno.ENOSPC, "No space left on device")
        left -= 1

    return watch


def wanted(engines: Sequence[Exported]) -> dict[str, bytes]:
    return {{"h200": "9.0", "l4": "8.9"}[each.target]: each.file.read_bytes() for each in engines}
