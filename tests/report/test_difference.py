"""How two engines differ, as JSON and as lines."""

from __future__ import annotations

from engineforge.project.subjects import Subject
from engineforge.report.difference import difference, difference_lines
from tests.report.subjects import close, layer, measured, subject


def _lines(before: Subject, after: Subject, *, everything: bool = False) -> list[str]:
    """Without the two lines that name the engines."""
    return [*difference_lines(difference(before, after), everything=everything)][2:]


def test_what_they_were_asked_to_be_differs_leaf_by_leaf() -> None:
    assert "  key        builder.tf32 true → false" in _lines(subject(), subject(tf32=False))


def test_equal_engines_are_said_to_be() -> None:
    lines = _lines(subject(layers=[layer("a")]), subject(layers=[layer("a")]))
    assert lines == [
        "  the same engine file, to the last bit",
        "  key        the same: asked for alike",
        "  layers     1 the same, 0 changed, 0 added, 0 removed",
    ]


def test_size_and_precision_are_told_where_they_differ() -> None:
    lines = _lines(subject(size=2048, precision="fp32"), subject(size=1024))
    assert "  precision  fp32 → fp16" in lines
    assert "  size       2.0 KiB → 1.0 KiB (-50.0 %)" in lines


def test_latencies_of_one_kind_of_gpu_are_compared() -> None:
    before, after = subject(latency=measured(1.0)), subject(latency=measured(1.25))
    assert difference(before, after)["latency"]["slower_percent"] == 25
    lines = _lines(before, after)
    assert "  latency    median 1 → 1.25 ms (+25.0 %)" in lines
    assert "  latency    p99 1.5 → 1.875 ms" in lines
    assert lines.count("  latency    held down by sw_power_cap") == 2


def test_latencies_of_two_kinds_are_not() -> None:
    before, after = subject(latency=measured(1.0)), subject(latency=measured(9.0, "NVIDIA L4"))
    assert difference(before, after)["latency"]["slower_percent"] is None
    assert "  latency    not comparable: on NVIDIA H200, and on NVIDIA L4" in _lines(before, after)


def test_what_was_never_measured_says_how_to() -> None:
    lines = _lines(subject(latency=measured(1.0)), subject(accuracy=close(0.1)))
    assert "  latency    the second was never measured: engineforge bench" in lines
    assert "  accuracy   the first was never checked: engineforge check --engine" in lines


def test_accuracies_are_compared() -> None:
    lines = _lines(subject(accuracy=close(0.125)), subject(accuracy=close(0.25)))
    assert "  accuracy   error 0.125 → error 0.25" in lines


def test_layers_are_named_with_what_changed() -> None:
    lines = _lines(
        subject(layers=[layer("a", tactic="x"), layer("gone")]),
        subject(layers=[layer("a", tactic="y"), layer("new", tactic="z")]),
    )
    assert lines[-5:] == [
        "  layers     0 the same, 1 changed, 1 added, 1 removed",
        "    ~ a",
        "        tactic x → y",
        "    - gone  float16",
        "    + new  float16  z",
    ]


def test_of_many_layers_the_first_ones_are_named_unless_all_are_asked_for() -> None:
    before, after = subject(layers=[]), subject(layers=[layer(f"l{at}") for at in range(30)])
    assert _lines(before, after)[-1] == "    and 10 lines more: --all has them"
    assert _lines(before, after, everything=True)[-1] == "    + l29  float16"


def test_layers_that_are_not_told_cannot_be_compared() -> None:
    found = difference(subject("a"), subject("b", layers=[layer("x")]))
    assert found["layers"] == {"compared": False, "why": "a: nothing has looked inside"}
