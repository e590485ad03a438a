"""Layers as a table, and how those of two engines differ."""

from __future__ import annotations

from engineforge.report.layers import compare_layers, layer_lines, layers_data
from tests.report.subjects import layer, subject


def test_layers_that_were_timed_come_with_their_times_the_slowest_first() -> None:
    found = subject(
        layers=[
            layer("conv1", tactic="sm90_xmma"),
            layer("fc", output_types=["float32"], weights_type="int8", tactic_value="0x1"),
        ],
        profile=[
            {"name": "conv1", "ms": 0.25, "share": 0.2},
            {"name": "fc", "ms": 1, "share": 0.8},
        ],
    )
    assert [*layer_lines(found)] == [
        "net/fp16@h200: 2 layers",
        "      ms  share  type         precision               tactic     layer",
        "  1.0000  80.0%  Convolution  float32 (int8 weights)  0x1        fc",
        "  0.2500  20.0%  Convolution  float16                 sm90_xmma  conv1",
    ]


def test_layers_that_were_not_timed_are_in_the_order_of_the_engine() -> None:
    first, *rest = layer_lines(subject(layers=[layer("b"), layer("a")]))
    assert first == "net/fp16@h200: 2 layers, never timed: engineforge bench --layers"
    assert rest == [
        "  type         precision  layer",
        "  Convolution  float16    b",
        "  Convolution  float16    a",
    ]


def test_an_engine_of_which_only_names_are_told_says_how_to_have_more() -> None:
    lines = [*layer_lines(subject(layers=[{"name": "a + b"}]))]
    assert "  only their names: build with profiling_verbosity: detailed for more" in lines
    assert lines[-1] == "  a + b"


def test_an_engine_without_layers_says_why() -> None:
    assert [*layer_lines(subject())] == ["net/fp16@h200: no layers: nothing has looked inside"]


def test_an_engine_that_was_timed_and_tells_no_layers_has_those_that_were_timed() -> None:
    lines = [*layer_lines(subject(profile=[{"name": "fc", "ms": 1.0, "share": 1.0}]))]
    assert lines[1] == "  only their times: nothing has looked inside"
    assert lines[-1].split() == ["1.0000", "100.0%", "fc"]


def test_json_has_layers_with_their_times() -> None:
    found = layers_data(
        subject(layers=[layer("a")], profile=[{"name": "a", "ms": 2.0, "share": 1.0}])
    )
    assert found["layers"] == [{**layer("a"), "ms": 2.0, "share": 1.0}]
    assert (found["profiled"], found["why_none"]) == (True, None)


def test_layers_are_compared_by_name() -> None:
    found = compare_layers(
        [layer("same"), layer("gone"), layer("other", tactic="a", output_types=["float32"])],
        [layer("other", tactic="b"), layer("same"), layer("new")],
    )
    assert found.same == 1
    assert [each["name"] for each in found.added] == ["new"]
    assert [each["name"] for each in found.removed] == ["gone"]
    (changed,) = found.changed
    assert changed.name == "other"
    assert changed.changes == [("precision", "float32", "float16"), ("tactic", "a", "b")]


def test_numbers_in_generated_names_do_not_count() -> None:
    before = [layer("{ForeignNode[__mye123_a...__mye7]}")]
    after = [layer("{ForeignNode[__mye5_a...__mye99]}")]
    found = compare_layers(before, after)
    assert (found.same, found.added, found.removed) == (1, [], [])


def test_layers_of_one_name_are_compared_in_their_order() -> None:
    found = compare_layers(
        [layer("a", tactic="1"), layer("a", tactic="2")],
        [layer("a", tactic="1"), layer("a", tactic="3"), layer("a", tactic="4")],
    )
    assert found.same == 1
    assert [each.changes for each in found.changed] == [[("tactic", "2", "3")]]
    assert [each["tactic"] for each in found.added] == ["4"]
