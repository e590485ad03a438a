"""Which model a spec's source is: here, or still to be made; and what its exporter is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from engineforge.digest import Digest, digest_value
from engineforge.project.sources import BadAxes, Found, Sources, axes, network_key
from engineforge.spec.lock import Lock
from engineforge.spec.model import InputRange, Profile, ShapeRange
from engineforge.spec.sources import (
    InputAxes,
    ModelSource,
    NetworkSource,
    PytorchSource,
    SklearnSource,
    Source,
    TensorflowSource,
)
from engineforge.store.index import Index
from engineforge.store.local import LocalStore
from engineforge.worker.job import Files, SourceJob


def profile(**inputs: tuple[list[int], list[int], list[int]]) -> Profile:
    return {
        name: InputRange(shape=ShapeRange(min=tuple(low), opt=tuple(at), max=tuple(high)))
        for name, (low, at, high) in inputs.items()
    }


_BATCHES = profile(x=([1, 3], [4, 3], [8, 3]))
_MODULE = PytorchSource(module="nets:make")


def test_an_axis_that_varies_is_told_without_a_size() -> None:
    found = axes(_MODULE, [_BATCHES])
    assert found == {"x": InputAxes(type="float32", dims=(None, 3), example=(4, 3), batch=True)}


def test_an_axis_varies_too_where_two_variants_have_it_otherwise() -> None:
    other = profile(x=([1, 5], [4, 5], [8, 5]))
    assert axes(_MODULE, [_BATCHES, other])["x"].dims == (None, None)


def test_another_range_of_what_varies_already_is_no_other_export() -> None:
    wider = profile(x=([1, 3], [4, 3], [64, 3]))
    assert axes(_MODULE, [wider]) == axes(_MODULE, [_BATCHES])


def test_a_batch_of_1_is_exported_with_2_as_exporters_fix_a_size_of_1() -> None:
    found = axes(_MODULE, [profile(x=([1, 3], [1, 3], [8, 3]))])
    assert found["x"].example == (2, 3)


@pytest.mark.parametrize(
    ("ranges", "example"),
    [
        ([(1, 4, 8), (1, 2, 8)], 2),
        ([(1, 8, 8), (1, 1, 4)], 8),
        ([(1, 1, 1), (1, 1, 4)], 2),
        ([(1, 1, 1), (8, 8, 8)], 8),
    ],
    ids=["the smallest", "but 1", "else 2", "not outside of all profiles"],
)
def test_an_example_is_the_same_in_any_order_of_profiles(
    ranges: list[tuple[int, int, int]], example: int
) -> None:
    given = [profile(x=([low, 3], [at, 3], [high, 3])) for low, at, high in ranges]
    for each in (given, given[::-1]):
        assert axes(_MODULE, each)["x"].example == (example, 3)


_OTHER_EXAMPLE = profile(x=([1, 3], [2, 3], [8, 3]))
_ONE, _TWO = ([1, 3], [2, 3], [8, 3]), ([1, 3], [4, 3], [8, 3])


@pytest.mark.parametrize(
    ("source", "one", "two", "same"),
    [
        (_MODULE, _BATCHES, _OTHER_EXAMPLE, False),
        (PytorchSource(torchscript="m.pt"), _BATCHES, _OTHER_EXAMPLE, False),
        (PytorchSource(program="m.pt2"), _BATCHES, _OTHER_EXAMPLE, True),
        (PytorchSource(program="m.pt2"), profile(x=_ONE, y=_ONE), profile(x=_ONE, y=_TWO), False),
        (TensorflowSource(keras="m.keras"), _BATCHES, _OTHER_EXAMPLE, True),
        (SklearnSource(model="m.pkl"), _BATCHES, _OTHER_EXAMPLE, True),
    ],
    ids=["module", "torchscript", "program", "program, no batch", "tensorflow", "sklearn"],
)
def test_an_example_is_in_the_key_of_what_it_shapes(
    source: Source, one: Profile, two: Profile, same: bool, tmp_path: Path
) -> None:
    for name in ("nets.py", "m.pt", "m.pt2", "m.keras", "m.pkl"):
        (tmp_path / name).touch()
    assert (key(source, tmp_path, one) == key(source, tmp_path, two)) is same


def test_files_that_change_names_are_another_network(tmp_path: Path) -> None:
    for name in ("nets.py", "one.py", "two.py"):
        (tmp_path / name).write_text(name)
    source = NetworkSource(function="nets:build", files=("one.py", "two.py"))
    found = sources(tmp_path).find("s", ModelSource(source=source), tmp_path, [])
    assert isinstance(found, Found)
    other = NetworkSource(function="nets:build", files=("two.py", "one.py"))
    assert network_key(source, found.files) != network_key(other, found.files)


def sources(folder: Path) -> Sources:
    def inspected(path: Path) -> Files:
        raise AssertionError(path)

    index = Index(folder / "cache")
    store = LocalStore(folder / "cache")
    return Sources(store=store, index=index, lock=Lock(), locked=(), inspected=inspected)


def key(source: Source, folder: Path, given: Profile) -> Digest:
    found = sources(folder).find("s", ModelSource(source=source), folder, [given])
    assert isinstance(found, SourceJob)
    return digest_value(found.key)


def test_an_example_lies_within_the_profile() -> None:
    found = axes(_MODULE, [profile(x=([0, 3], [1, 3], [1, 3]))])
    assert found["x"].example == (1, 3)


def test_element_types_are_those_of_the_source() -> None:
    source = PytorchSource(module="nets:make", inputs={"ids": "int64"})
    found = axes(source, [profile(ids=([1, 8], [2, 8], [4, 8]), x=([1, 3], [2, 3], [4, 3]))])
    assert [each.type for each in found.values()] == ["int64", "float32"]


def test_the_batch_is_what_varies_alike_in_all_inputs() -> None:
    alike = profile(a=([1, 8], [2, 8], [4, 8]), b=([1, 3], [2, 3], [4, 3]))
    assert [each.batch for each in axes(_MODULE, [alike]).values()] == [True, True]


def test_two_axes_of_one_size_and_other_bounds_are_no_batch() -> None:
    query_and_gallery = profile(a=([1, 8], [2, 8], [4, 8]), b=([1, 8], [2, 8], [100, 8]))
    assert [each.batch for each in axes(_MODULE, [query_and_gallery]).values()] == [False, False]


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
