"""DLPack in and out, against NumPy and torch, in the memory of the host."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from engineforge.errors import EngineForgeError
from engineforge.runtime import dlpack
from engineforge.runtime.dlpack import Borrowed


class Kept(np.ndarray):
    """An array whose end can be seen."""


class Ours:
    """An array lent through our capsule."""

    def __init__(self, array: npt.NDArray[Any]) -> None:
        self.array = array

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CPU, 0

    def __dlpack__(self, **_: object) -> Any:  # noqa: ANN401
        array = self.array
        return dlpack.lend(
            array,
            pointer=array.ctypes.data,
            shape=array.shape,
            dtype=array.dtype,
            device=(dlpack.CPU, 0),
        )


@pytest.mark.parametrize(
    "dtype", ["float32", "float16", "float64", "int64", "int32", "int8", "uint8", "bool"]
)
@pytest.mark.parametrize("shape", [(2, 3, 4), (1,), (), (0, 3)])
def test_numpy_takes_what_we_lend(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    taken = np.from_dlpack(Ours(array))
    assert taken.dtype == array.dtype
    assert np.array_equal(taken, array)


def test_torch_takes_what_we_lend() -> None:
    torch = pytest.importorskip("torch")
    array = np.arange(6, dtype=np.float16).reshape(2, 3)
    assert torch.from_dlpack(Ours(array)).tolist() == array.tolist()


def test_what_is_lent_lives_until_its_taker_lets_go() -> None:
    array = np.arange(4.0).view(Kept)
    end = weakref.ref(array)
    taken = np.from_dlpack(Ours(array))
    del array
    gc.collect()
    assert end() is not None
    del taken
    gc.collect()
    assert end() is None


def test_a_capsule_that_nobody_takes_lets_go() -> None:
    array = np.arange(4.0).view(Kept)
    end = weakref.ref(array)
    capsule = Ours(array).__dlpack__()
    del array, capsule
    gc.collect()
    assert end() is None


@pytest.mark.parametrize("step", [slice(None), slice(None, None, 2), slice(None, None, -1)])
def test_what_numpy_lends_is_read_with_its_strides(step: slice) -> None:
    array = np.arange(24, dtype=np.int32).reshape(4, 6)[step, step]
    borrowed = Borrowed(array)
    assert np.array_equal(borrowed.array(), array)
    assert borrowed.contiguous == (step == slice(None))


def test_bfloat16_comes_from_torch() -> None:
    torch = pytest.importorskip("torch")
    borrowed = Borrowed(torch.tensor([1.5, -2.0], dtype=torch.bfloat16))
    assert borrowed.dtype.name == "bfloat16"
    assert borrowed.array().astype(np.float32).tolist() == [1.5, -2.0]


def test_what_is_borrowed_goes_back_once() -> None:
    array = np.arange(4.0).view(Kept)
    end = weakref.ref(array)
    borrowed = Borrowed(Ours(array))
    del array
    borrowed.close()
    borrowed.close()
    gc.collect()
    assert end() is None


def test_a_capsule_is_taken_only_once() -> None:
    class Twice(Ours):
        kept: Any = None

        def __dlpack__(self, **_: object) -> Any:  # noqa: ANN401
            self.kept = self.kept or super().__dlpack__()
            return self.kept

    source = Twice(np.arange(4.0))
    first = Borrowed(source)
    with pytest.raises(EngineForgeError, match="no unused DLPack tensor"):
        Borrowed(source)
    first.close()


def test_other_devices_are_refused() -> None:
    class Elsewhere(Ours):
        def __dlpack_device__(self) -> tuple[int, int]:
            return 10, 0

    with pytest.raises(EngineForgeError, match="kind 10"):
        Borrowed(Elsewhere(np.arange(4.0)))


def test_complex_numbers_are_refused() -> None:
    with pytest.raises(EngineForgeError, match="is not known"):
        Borrowed(np.zeros(2, np.complex64))
