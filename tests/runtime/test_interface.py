"""Which arrays fit an engine, in which profile, and what is said of those that do not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engineforge.errors import EngineForgeError
from engineforge.runtime.interface import Interface, Request, Tensor, WrongInput
from engineforge.spec.model import InputRange, ShapeRange

IMAGE = Tensor(name="image", dtype="FLOAT", dims=(-1, 3, -1, -1))
SIZE = Tensor(name="size", dtype="INT32", dims=(2,), on_host=True, shape_tensor=True)
OUT = Tensor(name="out", dtype="HALF", dims=(-1, 10))


def image(*batches: int, side: int = 8) -> InputRange:
    low, opt, high = ((batch, 3, side, side) for batch in batches)
    return InputRange(shape=ShapeRange(min=low, opt=opt, max=high))


def sizes(low: int, opt: int, high: int) -> InputRange:
    return InputRange(
        shape=ShapeRange(min=(2,), opt=(2,), max=(2,)),
        values=ShapeRange(min=(low, low), opt=(opt, opt), max=(high, high)),
    )


def of(*profiles: dict[str, InputRange]) -> Interface:
    inputs = {name: {"image": IMAGE, "size": SIZE}[name] for name in profiles[0]}
    return Interface(inputs=inputs, outputs={"out": OUT}, profiles=profiles)


def ask(shape: tuple[int, ...], **values: tuple[int, ...]) -> Request:
    shapes = {"image": shape} | {name: (len(each),) for name, each in values.items()}
    return Request(shapes=shapes, values=values)


TWO = of({"image": image(1, 1, 1)}, {"image": image(1, 8, 16)})


def test_a_shape_in_no_profile_names_input_shape_and_profiles() -> None:
    with pytest.raises(WrongInput) as error:
        of({"image": image(1, 4, 16)}).profile_for(ask((32, 3, 8, 8)))
    assert str(error.value) == (
        "input 'image': shape [32, 3, 8, 8] is in no profile: [1, 3, 8, 8] to [16, 3, 8, 8]"
    )


def test_several_profiles_are_all_told() -> None:
    with pytest.raises(WrongInput, match=r"\[1, 3, 8, 8\], or \[1, 3, 8, 8\] to \[16, 3, 8, 8\]"):
        TWO.profile_for(ask((32, 3, 8, 8)))


def test_the_asked_profile_alone_is_told() -> None:
    with pytest.raises(WrongInput, match=r"is not in profile 0: \[1, 3, 8, 8\]$"):
        TWO.profile_for(ask((2, 3, 8, 8)), 0)


def test_a_profile_whose_opt_is_asked_for_comes_first() -> None:
    both = of({"image": image(1, 4, 16)}, {"image": image(1, 8, 16)})
    assert both.profile_for(ask((8, 3, 8, 8))) == 1
    assert both.profile_for(ask((7, 3, 8, 8))) == 0


def test_a_profile_that_there_is_not_is_an_error() -> None:
    with pytest.raises(WrongInput, match="no profile 2: it has 2, from 0"):
        TWO.profile_for(ask((1, 3, 8, 8)), 2)


def test_another_rank_is_told_as_such() -> None:
    with pytest.raises(WrongInput, match=r"expected 4 dimensions, \[-1, 3, -1, -1\], found 2"):
        TWO.profile_for(ask((3, 8)))


def test_shapes_that_fit_apart_and_not_together_are_told() -> None:
    engine = of(
        {"image": image(1, 1, 1), "size": sizes(1, 1, 1)},
        {"image": image(2, 2, 2), "size": sizes(2, 2, 2)},
    )
    with pytest.raises(WrongInput, match=r"together in none(.|\n)*profile 1: 'image' \[2, 3, 8"):
        engine.profile_for(ask((1, 3, 8, 8), size=(2, 2)))


def test_values_of_shape_tensors_are_checked() -> None:
    engine = of({"image": image(1, 1, 1), "size": sizes(8, 16, 32)})
    assert engine.profile_for(ask((1, 3, 8, 8), size=(8, 32))) == 0
    with pytest.raises(WrongInput, match=r"values \[8, 64\] are in no profile: \[8, 8\] to \[32"):
        engine.profile_for(ask((1, 3, 8, 8), size=(8, 64)))


def test_another_type_says_what_would_cast() -> None:
    with pytest.raises(WrongInput, match="expected float32, found float64") as error:
        TWO.check({"image": np.zeros((1, 3, 8, 8))})
    assert "image.astype('float32')" in (error.value.hint or "")


def test_a_misspelt_input_is_told_with_the_nearest_name() -> None:
    with pytest.raises(WrongInput) as error:
        TWO.check({"imgae": np.zeros((1, 3, 8, 8), np.float32)})
    assert "the engine has no input 'imgae'" in str(error.value)
    assert "input 'image' is missing: expected 'image' float32 [-1, 3, -1, -1]" in str(error.value)
    assert "did you mean 'image'?" in (error.value.hint or "")


def test_opt_has_values_of_shape_tensors() -> None:
    engine = of({"image": image(1, 4, 8), "size": sizes(8, 16, 32)})
    assert engine.opt(0) == ask((4, 3, 8, 8), size=(16, 16))
    assert engine.opt(0, "max") == ask((8, 3, 8, 8), size=(32, 32))


def test_types_without_numpy_type_are_told() -> None:
    with pytest.raises(EngineForgeError, match="'INT4' have no NumPy type"):
        _ = Tensor(name="x", dtype="INT4", dims=(1,)).numpy_type


@pytest.mark.parametrize(
    ("dtype", "name"), [("HALF", "float16"), ("BF16", "bfloat16"), ("FP8", "float8_e4m3fn")]
)
def test_low_precision_types_have_numpy_types(dtype: str, name: str) -> None:
    assert Tensor(name="x", dtype=dtype, dims=(1,)).numpy_type.name == name


triples = st.lists(st.integers(1, 20), min_size=3, max_size=3).map(sorted)


@given(st.lists(triples, min_size=1, max_size=4), st.integers(1, 20))
def test_a_profile_is_found_exactly_where_one_takes_the_shape(
    batches: list[list[int]], batch: int
) -> None:
    engine = of(*({"image": image(*each)} for each in batches))
    fits = [low <= batch <= high for low, _, high in batches]
    if any(fits):
        assert fits[engine.profile_for(ask((batch, 3, 8, 8)))]
    else:
        with pytest.raises(WrongInput, match="is in no profile"):
            engine.profile_for(ask((batch, 3, 8, 8)))
