"""Folders of images: what a pixel becomes, how an image gets its size, what is refused."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engineforge.spec.model import ImageFolder, TensorInterface
from tests.samples.data import Array, feeds, labels_of, places, problem, stream, tensor

pytest.importorskip("PIL", reason="python -m pip install 'engineforge[precision]'")

from PIL import Image

RGB = tensor("image", "batch", 3, "height", "width")
GRAY = tensor("image", "batch", 1, "height", "width")
LAST = tensor("image", "batch", "height", "width", 3)


def pixels(height: int = 6, width: int = 8, *, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def save(folder: Path, name: str, array: Array | None = None, **options: Any) -> Path:  # noqa: ANN401
    path = folder / "i" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels() if array is None else array).save(path, **options)
    return path


def read(
    folder: Path,
    *inputs: TensorInterface,
    **how: Any,  # noqa: ANN401
) -> list[Array]:
    return feeds(stream(folder, ImageFolder(path="i", **how), *(inputs or (RGB,))), "image")


def said(folder: Path, *inputs: TensorInterface, **how: Any) -> str:  # noqa: ANN401
    return problem(stream(folder, ImageFolder(path="i", **how), *(inputs or (RGB,))))


def chw(array: Array) -> Array:
    return array.transpose(2, 0, 1)[np.newaxis]


def test_an_image_is_its_pixels_in_0_to_1(tmp_path: Path) -> None:
    save(tmp_path, "a.png")
    found = read(tmp_path)[0]
    assert np.array_equal(found, chw(pixels()).astype(np.float32) / np.float32(255))


def test_values_are_contiguous_float32(tmp_path: Path) -> None:
    save(tmp_path, "a.png")
    found = read(tmp_path)[0]
    assert found.dtype == np.float32
    assert found.flags.c_contiguous


def test_values_are_scaled_channel_by_channel(tmp_path: Path) -> None:
    save(tmp_path, "a.png")
    found = read(tmp_path, divide="2", mean=("1", "2", "3"), std=("0.5", "1", "4"))[0]
    x = chw(pixels()).astype(np.float64) / 2
    expected = (x - np.array([1, 2, 3]).reshape(3, 1, 1)) / np.array([0.5, 1, 4]).reshape(3, 1, 1)
    assert np.allclose(found, expected, rtol=1e-6)


def test_one_number_is_for_all_channels(tmp_path: Path) -> None:
    save(tmp_path, "a.png")
    found = read(tmp_path, divide="1", mean=("128",), std=("64",))[0]
    assert np.array_equal(found, (chw(pixels()).astype(np.float32) - 128) / 64)


def test_bgr_turns_the_channels_round_and_the_mean_is_in_that_order(tmp_path: Path) -> None:
    save(tmp_path, "a.png")
    found = read(tmp_path, divide="1", channels="bgr", mean=("1", "2", "3"))[0]
    expected = chw(pixels()[:, :, ::-1]).astype(np.float32)
    assert np.array_equal(found, expected - np.array([1, 2, 3], np.float32).reshape(3, 1, 1))


def test_gray_has_one_channel(tmp_path: Path) -> None:
    save(tmp_path, "a.png")
    expected = np.asarray(Image.fromarray(pixels()).convert("L"), np.float32)
    found = read(tmp_path, GRAY, channels="gray", divide="1")[0]
    assert np.array_equal(found, expected[np.newaxis, np.newaxis])


def test_channels_may_come_last(tmp_path: Path) -> None:
    save(tmp_path, "a.png")
    assert np.array_equal(read(tmp_path, LAST, layout="nhwc", divide="1")[0][0], pixels())


def test_a_gray_image_fills_three_channels(tmp_path: Path) -> None:
    save(tmp_path, "a.png", pixels()[:, :, 0])
    assert all(np.array_equal(c, pixels()[:, :, 0]) for c in read(tmp_path, divide="1")[0][0])


@pytest.mark.parametrize("mode", ["RGBA", "P", "1", "LA", "CMYK"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(pixels()).convert(mode)
    (tmp_path / "i").mkdir()
    image.save(tmp_path / "i" / ("a.tif" if mode == "CMYK" else "a.png"))
    expected = chw(np.asarray(image.convert("RGB")))
    assert np.array_equal(read(tmp_path, divide="1")[0], expected)


def test_transparency_is_dropped(tmp_path: Path) -> None:
    clear = np.zeros((6, 8, 1), np.uint8)
    save(tmp_path, "a.png", np.concatenate([pixels(), clear], axis=2))
    assert np.array_equal(read(tmp_path, divide="1")[0], chw(pixels()))


def test_a_palette_with_transparency(tmp_path: Path) -> None:
    image = Image.fromarray(pixels()).quantize(8)
    (tmp_path / "i").mkdir()
    image.save(tmp_path / "i" / "a.png", transparency=b"\0" * 8)
    assert read(tmp_path)[0].shape == (1, 3, 6, 8)


def test_a_model_of_float16_gets_float16(tmp_path: Path) -> None:
    save(tmp_path, "a.png")
    model = tensor("image", None, 3, None, None, type="float16")
    expected = (chw(pixels()).astype(np.float32) / np.float32(255)).astype(np.float16)
    assert np.array_equal(read(tmp_path, model)[0], expected)


class TestSize:
    def test_stretch_is_pillows_bilinear(self, tmp_path: Path) -> None:
        save(tmp_path, "a.png", pixels(20, 30))
        resized = Image.fromarray(pixels(20, 30)).resize((8, 12), Image.Resampling.BILINEAR)
        found = read(tmp_path, size=(12, 8), divide="1")[0]
        assert np.array_equal(found, chw(np.asarray(resized)))

    @pytest.mark.parametrize(("height", "width"), [(20, 33), (33, 20), (20, 20), (5, 9)])
    def test_crop_keeps_the_middle(self, tmp_path: Path, height: int, width: int) -> None:
        save(tmp_path, "a.png", pixels(height, width))
        short = min(height, width)
        resized = Image.fromarray(pixels(height, width)).resize(
            (10 * width // short, 10 * height // short), Image.Resampling.BILINEAR
        )
        left, top = round((resized.width - 10) / 2), round((resized.height - 10) / 2)
        expected = chw(np.asarray(resized.crop((left, top, left + 10, top + 10))))
        found = read(tmp_path, size=(10, 10), fit="crop", divide="1")[0]
        assert np.array_equal(found, expected)

    @pytest.mark.parametrize("size", [(4, 12), (12, 4), (7, 9), (1, 1)])
    @pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
    def test_every_way_reaches_it(self, tmp_path: Path, fit: str, size: tuple[int, int]) -> None:
        save(tmp_path, "a.png", pixels(6, 8))
        save(tmp_path, "b.png", pixels(100, 3))
        assert {x.shape for x in read(tmp_path, size=size, fit=fit)} == {(1, 3, *size)}

    def test_crop_shows_no_border(self, tmp_path: Path) -> None:
        save(tmp_path, "a.png", np.full((37, 91, 3), 200, np.uint8))
        found = read(tmp_path, size=(13, 29), fit="crop", divide="1")[0]
        assert np.array_equal(np.unique(found), [200])

    def test_pad_puts_black_around_the_whole_image(self, tmp_path: Path) -> None:
        save(tmp_path, "a.png", np.full((4, 8, 3), 200, np.uint8))
        found = read(tmp_path, size=(8, 8), fit="pad", divide="1")[0]
        assert np.array_equal(found[0, 0, :, 3], [0, 0, 200, 200, 200, 200, 0, 0])

    def test_without_one_an_image_keeps_its_own(self, tmp_path: Path) -> None:
        save(tmp_path, "a.png", pixels(6, 8))
        save(tmp_path, "b.png", pixels(5, 7))
        assert [x.shape for x in read(tmp_path)] == [(1, 3, 6, 8), (1, 3, 5, 7)]

    def test_that_the_model_does_not_take(self, tmp_path: Path) -> None:
        save(tmp_path, "a.png", pixels(6, 8))
        assert said(tmp_path, tensor("image", "batch", 3, 32, 32)) == (
            "'i/a.png', input 'image': expected [batch, 3, 32, 32], found [1, 3, 6, 8]\n"
            "hint: see 'size', 'channels' and 'layout' of the data"
        )


class TestLabels:
    def test_are_the_places_of_sub_folders_among_all(self, tmp_path: Path) -> None:
        for name in ("dog/1.png", "cat/2.png", "cat/deep/0.png", "Ant/9.png"):
            save(tmp_path, name)
        samples = stream(tmp_path, ImageFolder(path="i"), RGB, labels="label")
        assert places(samples) == [
            "'i/Ant/9.png'",
            "'i/cat/2.png'",
            "'i/cat/deep/0.png'",
            "'i/dog/1.png'",
        ]
        assert labels_of(samples) == [[0], [1], [1], [2]]

    def test_do_not_depend_on_which_are_chosen(self, tmp_path: Path) -> None:
        for name in ("a/1.png", "b/1.png", "c/1.png"):
            save(tmp_path, name)
        data = ImageFolder(path="i")
        samples = stream(tmp_path, data, RGB, labels="label", samples=1, seed=1)
        expected = np.random.default_rng(1).choice(3, 1, replace=False).tolist()
        assert labels_of(samples) == [expected]

    def test_are_not_there_for_an_image_outside(self, tmp_path: Path) -> None:
        save(tmp_path, "a/1.png")
        save(tmp_path, "2.png")
        found = problem(stream(tmp_path, ImageFolder(path="i"), RGB, labels="label"))
        assert found.startswith("'i/2.png' has no label: it stands in no sub-folder\nhint: ")


def test_images_can_be_counted_without_reading_them(tmp_path: Path) -> None:
    save(tmp_path, "a.png").write_bytes(b"")
    assert stream(tmp_path, ImageFolder(path="i"), RGB).count() == 1


@pytest.mark.parametrize(
    "inputs", [(RGB, tensor("other", 1)), (tensor("image", None, 3, 6, 8, type="uint8"),)]
)
def test_a_model_that_takes_no_images(tmp_path: Path, inputs: tuple[TensorInterface, ...]) -> None:
    save(tmp_path, "a.png")
    assert "images are for a model with one input, of floats" in said(tmp_path, *inputs)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp", "tif"])
def test_images_that_are_cut_off(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path, f"b.{suffix}", pixels(64, 64))
    save(tmp_path, "a.png")
    data = path.read_bytes()
    for length in (0, 3, 20, len(data) // 2, len(data) - 300):
        path.write_bytes(data[:length])
        assert said(tmp_path).startswith(f"'i/b.{suffix}' cannot be read: ")


def test_a_bit_that_flipped_in_a_png(tmp_path: Path) -> None:
    path = save(tmp_path, "a.png", pixels(64, 64))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    assert said(tmp_path).startswith("'i/a.png' cannot be read: ")


def test_text_that_is_called_an_image(tmp_path: Path) -> None:
    save(tmp_path, "a.png").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert said(tmp_path) == "'i/a.png' is a Git LFS pointer, not the data\nhint: git lfs pull"


def test_a_size_that_only_a_bomb_has(tmp_path: Path) -> None:
    path = save(tmp_path, "a.png")
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 60000, 60000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)
    assert "decompression bomb" in said(tmp_path)


def test_sixteen_bits_are_not_cut_off(tmp_path: Path) -> None:
    save(tmp_path, "a.png", np.arange(48, dtype=np.uint16).reshape(6, 8))
    assert "'i/a.png': expected 8 bits a channel, found Pillow's mode 'I;16'" in said(tmp_path)


def test_an_image_that_is_to_be_turned_is_refused(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path, "a.jpg", exif=exif)
    found = said(tmp_path)
    assert found.startswith("'i/a.jpg' is to be turned before it is seen (EXIF orientation 6)")


def test_an_image_that_stands_upright_is_taken(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 1
    save(tmp_path, "a.jpg", exif=exif)
    assert len(read(tmp_path)) == 1


def test_several_images_in_one_file_are_refused(tmp_path: Path) -> None:
    pages = [Image.fromarray(pixels(seed=seed)) for seed in range(3)]
    (tmp_path / "i").mkdir()
    pages[0].save(tmp_path / "i" / "a.tif", save_all=True, append_images=pages[1:])
    assert said(tmp_path) == "'i/a.tif': expected one image, found 3 in one file"


def test_a_missing_pillow_is_told_with_how_to_install_it(tmp_path: Path) -> None:
    save(tmp_path, "a.png")
    code = """
import sys
sys.modules["PIL"] = None
from pathlib import Path
from engineforge.samples.read import Samples
from engineforge.spec.model import ImageFolder, TensorInterface
x = TensorInterface(name="x", type="float32", dims=(1, 3, 6, 8))
list(Samples(ImageFolder(path="i"), Path(sys.argv[1]), [x], samples=None, seed=None))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert "hint: python -m pip install 'engineforge[precision]'" in done.stderr
