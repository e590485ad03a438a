"""`world`: engines that were built and promoted once, copied for each test."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def project_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("cryptography", reason="python -m pip install 'engineforge[promotion]'")
    from tests.promotion.world import make_project

    root = tmp_path_factory.mktemp("world")
    make_project(root)
    return root


@pytest.fixture
def world(
    project_once: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> object:
    from tests.promotion.world import World

    shutil.copytree(project_once, tmp_path, dirs_exist_ok=True, symlinks=True)
    monkeypatch.chdir(tmp_path)
    return World(tmp_path, capsys)
