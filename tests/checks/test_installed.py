"""Which ONNX Runtime will do for checks of engines."""

from __future__ import annotations

from pathlib import Path

import pytest

from engineforge.checks.installed import onnxruntime_version
from engineforge.errors import HostUnfit
from tests.backends.packages import Site


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    # Before all else that is installed.
    monkeypatch.syspath_prepend(str(tmp_path))
    return Site(tmp_path)


@pytest.mark.parametrize("version", ["1.18.0", "1.23.2", "1.31.0", "2.0.0"])
def test_any_from_1_18_on_will_do(site: Site, version: str) -> None:
    site.has({"onnxruntime": (version, [])})
    assert onnxruntime_version() == version


@pytest.mark.parametrize("version", ["1.17.3", "0.9"])
def test_an_older_one_is_refused(site: Site, version: str) -> None:
    site.has({"onnxruntime": (version, [])})
    with pytest.raises(HostUnfit, match=rf"1\.18 or later, found {version}"):
        onnxruntime_version()


def test_none_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    with pytest.raises(HostUnfit, match="ONNX Runtime is not installed here"):
        onnxruntime_version()
