"""TensorRT's layouts of memory, against the formulas of its documentation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engineforge.errors import EngineForgeError
from engineforge.runtime import formats

LAYOUTS = {"LINEAR": 1, "CHW2": 2, "CHW4": 4, "CHW16": 16, "CHW32": 32, "HWC": 1, "HWC8": 8}


def packed(array: np.ndarray, layout: str) -> np.ndarray:
    into = np.full(formats.stored_shape(array.shape, layout), -1, array.dtype)
    formats.pack(array, layout, into)
    return into


def test_chw32_is_groups_of_channels() -> None:
    x = np.arange(2 * 40 * 3 * 5, dtype=np.float32).reshape(2, 40, 3, 5)
    stored = packed(x, "CHW32")
    assert stored.shape == (2, 2, 3, 5, 32)
    assert stored[1, 39 // 32, 2, 4, 39 % 32] == x[1, 39, 2, 4]
    assert (stored[:, 1, :, :, 8:] == 0).all()


def test_hwc8_is_channels_last_and_padded() -> None:
    x = np.arange(2 * 3 * 4 * 5, dtype=np.float16).reshape(2, 3, 4, 5)
    stored = packed(x, "HWC8")
    assert stored.shape == (2, 4, 5, 8)
    assert stored[1, 2, 3, 1] == x[1, 1, 2, 3]


@given(st.sampled_from(sorted(LAYOUTS)), st.tuples(*[st.integers(1, 40)] * 2))
def test_what_is_packed_comes_back(layout: str, sizes: tuple[int, int]) -> None:
    x = np.arange(sizes[0] * sizes[1] * 6, dtype=np.int32).reshape(sizes[0], sizes[1], 2, 3)
    assert (formats.unpack(packed(x, layout), x.shape, layout) == x).all()


def test_formats_of_dla_alone_are_refused() -> None:
    with pytest.raises(EngineForgeError, match="format DLA_LINEAR cannot be read here"):
        formats.stored_shape((1, 3, 4, 4), "DLA_LINEAR")
