"""`world`: engines that were built and promoted once, copied for each test."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.promotion.world import World


@pytest.fixture(scope="session")
def project_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("cryptography", reason="python -m pip install 'engineforge[promotion]'")
    from tests.promotion.world import make_project

    root = tmp_path_factory.mktemp("once")
    make_project(root)
    return root


@pytest.fixture(scope="session")
def project_twice(project_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.promotion.world import make_another

    root = tmp_path_factory.mktemp("twice")
    shutil.copytree(project_once, root, dirs_exist_ok=True)
    make_another(root)
    return root


@pytest.fixture
def world(
    project_once: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> World:
    """Each spec is in `dev` and `staging`, number 1."""
    return _copied(project_once, tmp_path, capsys, monkeypatch)


@pytest.fixture
def later(
    project_twice: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> World:
    """The same, where `net` was promoted once more with other engines."""
    return _copied(project_twice, tmp_path, capsys, monkeypatch)


def _copied(
    project: Path,
    root: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> World:
    from tests.promotion.world import World

    shutil.copytree(project, root, dirs_exist_ok=True)
    monkeypatch.chdir(root)
    return World(root, capsys)
