"""Which model a spec's source is: here, or still to be made; and what its exporter is told."""

from __future__ import annotations

import pytest

from engineforge.project.sources import BadAxes, axes
from engineforge.spec.model import InputRange, Profile, ShapeRange
from engineforge.spec.sources import InputAxes, PytorchSource, TensorflowSource


def profile(**inputs: tuple[list[int], list[int], list[int]]) -> Profile:
    return {
        name: InputRange(shape=ShapeRange(min=tuple(low), opt=tuple(at), max=tuple(high)))
        for name, (low, at, high) in inputs.items()
    }


_BATCHES = profile(x=([1, 3], [4, 3], [8, 3]))
_MODULE = PytorchSource(module="nets:make")


def test_an_axis_that_varies_is_told_without_a_size() -> None:
    found = axes(_MODULE, [_BATCHES])
    assert found == {"x": InputAxes(type="float32", dims=(None, 3), example=(4, 3))}


def test_an_axis_varies_too_where_two_variants_have_it_otherwise() -> None:
    other = profile(x=([1, 5], [4, 5], [8, 5]))
    assert axes(_MODULE, [_BATCHES, other])["x"].dims == (None, None)


def test_another_range_of_what_varies_already_is_no_other_export() -> None:
    wider = profile(x=([1, 3], [4, 3], [64, 3]))
    assert axes(_MODULE, [wider]) == axes(_MODULE, [_BATCHES])


def test_a_batch_of_1_is_exported_with_2_as_exporters_fix_a_size_of_1() -> None:
    found = axes(_MODULE, [profile(x=([1, 3], [1, 3], [8, 3]))])
    assert found["x"].example == (2, 3)


def test_an_example_lies_within_the_profile() -> None:
    found = axes(_MODULE, [profile(x=([0, 3], [1, 3], [1, 3]))])
    assert found["x"].example == (1, 3)


def test_element_types_are_those_of_the_source() -> None:
    source = PytorchSource(module="nets:make", inputs={"ids": "int64"})
    found = axes(source, [profile(ids=([1, 8], [2, 8], [4, 8]), x=([1, 3], [2, 3], [4, 3]))])
    assert [each.type for each in found.values()] == ["int64", "float32"]


def test_inputs_keep_the_order_of_the_spec() -> None:
    one, other = ([1, 8], [2, 8], [4, 8]), ([1, 3], [2, 3], [4, 3])
    assert list(axes(_MODULE, [profile(b=one, a=other)])) == ["b", "a"]


def test_a_spec_without_inputs_tells_nothing() -> None:
    assert axes(TensorflowSource(keras="m.keras"), [{}]) == {}


@pytest.mark.parametrize(
    ("source", "profiles", "message"),
    [
        (_MODULE, [_BATCHES, profile(y=([1], [1], [1]))], "not one rank"),
        (_MODULE, [_BATCHES, profile(x=([1], [1], [1]))], "not one rank"),
        (PytorchSource(module="n:m", inputs={"z": "int64"}), [_BATCHES], "no profile has.*'z'"),
    ],
    ids=["an input is missing", "another rank", "a type of no input"],
)
def test_what_no_export_could_have_is_an_error(
    source: PytorchSource, profiles: list[Profile], message: str
) -> None:
    with pytest.raises(BadAxes, match=message):
        axes(source, profiles)
