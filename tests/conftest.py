"""`forge`: a project of one's own in a temporary folder, and the command line run on it."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from engineforge.cli.main import main
from engineforge.cli.noop import unchanged
from engineforge.worker.conditions import Conditions
from engineforge.worker.outcome import Event
from tests.models import convnet

TARGETS = """\
ada:
  backend: tensorrt_rtx
  version: 1.7.1.116
  compute_capabilities: [8.9]
ampere:
  backend: tensorrt_rtx
  version: 1.7.1.116
  compute_capabilities: [8.0, 8.6]
"""

CLASSIC = """\
h200:
  backend: tensorrt
  version: 10.13.3.9
  cuda: '12.9'
  gpu:
    name: NVIDIA H200
    compute_capability: 9.0
    sm_count: 132
    memory: 140GiB
    memory_bus_width: 6144
    l2_cache: 60MiB
    shared_memory_per_block: 227KiB
    shared_memory_per_sm: 228KiB
    ecc: true
"""

SPEC = """\
model:
  source: {path: models/net.onnx}
inputs:
  image: {min: [1, 3, 16, 16], opt: [4, 3, 16, 16], max: [8, 3, 16, 16]}
targets: [ada]
variants:
  fp32: {precision: fp32}
"""
# Measured: the largest process takes 4.3 GB, and its child 1.5 GB.
_TWO_NEED = 12 << 30


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:  # noqa: ANN401
        return json.loads(self.out)

    def outcomes(self) -> dict[str, str]:
        """Of `build --json`: what became of each variant."""
        return {f"{v['variant']}@{v['target']}": v["outcome"] for v in self.json["variants"]}


class Forge:
    """A project in `root`: `specs/` with one spec, `net`, of a small network; and its cache.

    Without `capture`, as in a fixture of many tests, commands run as processes only.
    """

    def __init__(self, root: Path, capture: pytest.CaptureFixture[str] | None = None) -> None:
        self.root = root
        self.specs = root / "specs"
        self.cache = root / "cache"
        self._capture = capture

    def populate(self) -> None:
        self.spec("targets", TARGETS)
        self.spec("net", SPEC)
        convnet(self.model)

    @property
    def model(self) -> Path:
        return self.specs / "models" / "net.onnx"

    def spec(self, name: str, text: str) -> Path:
        path = self.specs / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def edit(self, name: str, old: str, new: str) -> None:
        path = self.specs / f"{name}.yaml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def run(self, *args: str | Path) -> Result:
        """One command, in this process."""
        assert self._capture is not None
        self._capture.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(arg) for arg in args])
        said = self._capture.readouterr()
        code = end.value.code
        assert isinstance(code, int)
        return Result(code, said.out, said.err)

    @staticmethod
    def at_a_glance(command: str = "plan", folder: str | Path = "specs") -> bool:
        """Whether the quick way says that all is up to date, and the long one is not gone."""
        glance = unchanged(command, [str(folder)])
        if glance is not None:
            glance.close()
        return glance is None

    def build(self, *args: str | Path) -> Result:
        return self.run("build", "specs", "--json", *args)

    def plan(self, *args: str | Path) -> list[dict[str, Any]]:
        """The variants of `plan --json`, by label."""
        return list(self.run("plan", "specs", "--json", *args).json["variants"])

    def made(self, *args: str) -> Path:
        """The cache after one command, in a process of its own, for `seed` of other projects."""
        process = self.process(*args)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, out + err
        return self.cache

    def seed(self, cache: Path) -> None:
        """Put the entries of another cache into this one: what is keyed alike is reused then, and
        not made once more in each test. What was planned or when it was built is not known here."""
        shutil.copytree(cache / "entries-v1", self.cache / "entries-v1")

    def changes(self) -> dict[str, list[str]]:
        """Of each stale variant, the leaves that changed."""
        return {
            f"{v['variant']}@{v['target']}": [
                change["leaf"] for reason in v["reasons"] for change in reason.get("changes", [])
            ]
            for v in self.plan()
            if v["state"] == "stale"
        }

    def engines(self) -> list[Path]:
        return sorted(self.cache.glob("entries-v1/engine/*/*/model.engine"))

    def process(self, *args: str) -> subprocess.Popen[str]:
        """One command in a process of its own, for tests that kill it or run several."""
        return subprocess.Popen(
            [sys.executable, "-m", "engineforge", *args],
            cwd=self.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )


def conditions(
    *,
    jobs: int = 1,
    keep_going: bool = False,
    environment: Mapping[str, str] = os.environ,
    observe: Callable[[Event], None] = lambda _: None,
) -> Conditions:
    """For runs in this process."""
    return Conditions(
        jobs=jobs,
        keep_going=keep_going,
        timeout=None,
        memory=None,
        cold=False,
        environment=environment,
        about={},
        now=lambda: datetime.now(timezone.utc),
        observe=observe,
    )


@pytest.fixture
def forge(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Forge:
    made = Forge(tmp_path, capsys)
    made.populate()
    monkeypatch.chdir(tmp_path)
    return made


@pytest.fixture
def built(forge: Forge) -> Forge:
    """The same, with everything built."""
    result = forge.build()
    assert result.code == 0, result.err
    return forge


@pytest.hookimpl(optionalhook=True)
def pytest_configure() -> None:
    """A shell has what it starts in the background ignore SIGINT, and the children of that too:
    who interrupts a build would wait for ever."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two for the whole suite, if there is room for models of 2 GB in each; else this process. Nor
    beside another where a GPU's latency is measured."""
    whole = config.args_source == pytest.Config.ArgsSource.TESTPATHS
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    alone = (
        len(os.sched_getaffinity(0)) < 2 or memory < _TWO_NEED or Path("/dev/nvidiactl").exists()
    )
    return 2 if whole and not alone else 0


def pytest_collection_finish() -> None:
    """What was imported until now stays: to look through all of PyTorch and TensorFlow takes half a
    second each time that something collects garbage."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """In CI every extra is installed, so a test that skips is a test that was lost."""
    outcome: Any = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("CI") and item.get_closest_marker("gpu") is None:
        report.outcome = "failed"
        report.longrepr = f"skipped, and nothing may be in CI: {report.longrepr}"
