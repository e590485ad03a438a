"""What layers cost, drawn by the real Matplotlib."""

from __future__ import annotations

from pathlib import Path

import pytest

from engineforge.errors import UsageError
from engineforge.report.plot import plot_sensitivity
from tests.report.plans import layer, ranked

pytest.importorskip("matplotlib", reason="needs: python -m pip install 'engineforge[plot]'")

_BLUE, _RED = "#1f77b4", "#d62728"
_BEGINS = {".png": b"\x89PNG\r\n", ".svg": b"<?xml", ".pdf": b"%PDF-"}


def _drawn(path: Path, *costs: float | str | None) -> str:
    layers = [layer(f"layer{at}", cost) for at, cost in enumerate(costs)]
    plot_sensitivity(ranked(*layers).measured, "net/int8@ada", path)
    return path.read_bytes().decode(errors="replace")


@pytest.mark.parametrize("suffix", _BEGINS)
def test_the_suffix_names_the_format(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"drawn{suffix}"
    _drawn(path, 0.5, 0.001)
    assert path.read_bytes().startswith(_BEGINS[suffix])


@pytest.mark.parametrize("name", ["drawn.txt", "drawn", "drawn.SVGZ"])
def test_another_suffix_is_refused_and_nothing_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"is no \.pdf, \.png or \.svg"):
        _drawn(tmp_path / name, 0.5)
    assert [*tmp_path.iterdir()] == []


def test_every_layer_has_a_bar_and_its_name(tmp_path: Path) -> None:
    drawn = _drawn(tmp_path / "drawn.svg", 0.5, 0.25, 0.125)
    assert drawn.count(_BLUE) == 3
    assert _RED not in drawn
    for said in ("layer0 (Conv)", "layer2 (Conv)", "net/int8@ada"):
        assert f"<!-- {said} -->" in drawn


@pytest.mark.parametrize("cost", ["inf", None])
def test_what_overflows_is_marked(tmp_path: Path, cost: str | None) -> None:
    drawn = _drawn(tmp_path / "drawn.svg", cost, 0.25, 0.125)
    assert (drawn.count(_RED), drawn.count(_BLUE)) == (1, 2)


@pytest.mark.parametrize("costs", [(), (0.0,), ("inf",), (1.0, 1e-9, 0.0)])
def test_any_costs_can_be_drawn(tmp_path: Path, costs: tuple[float | str, ...]) -> None:
    assert "</svg>" in _drawn(tmp_path / "drawn.svg", *costs)


def test_of_many_layers_the_costliest_are_drawn_and_the_rest_counted(tmp_path: Path) -> None:
    drawn = _drawn(tmp_path / "drawn.svg", *(1 / (at + 1) for at in range(45)))
    assert drawn.count(_BLUE) == 40
    assert "<!-- net/int8@ada, without the 5 that cost least -->" in drawn
