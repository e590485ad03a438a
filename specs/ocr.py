"""Samples for the OCR networks: text drawn with Pillow's own font, the same on every run.

Drawn text is cleaner than a camera's: calibrate on your own images before you trust an INT8 engine
with them. What is drawn for calibration is not what is drawn for the holdout.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Feed = dict[str, npt.NDArray[np.generic]]
_LETTERS = np.array(list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:%-"))
# What PP-OCR was trained with: per channel, of pixels in 0..1.
_PAGE_MEAN, _PAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_LINE_MEAN, _LINE_STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


def pages() -> Iterator[Feed]:
    """For the detector: 24 pages of 320 x 320 to 416 x 416."""
    return _pages(seed=0, count=24)


def holdout_pages() -> Iterator[Feed]:
    return _pages(seed=1, count=8)


def lines() -> Iterator[Feed]:
    """For the recognizer: 48 lines of text, 48 pixels high and 160 to 320 wide."""
    return _lines(seed=2, count=48)


def holdout_lines() -> Iterator[Feed]:
    return _lines(seed=3, count=24)


def turned_lines() -> Iterator[Feed]:
    """For the angle classifier: 48 lines of 48 x 192, every other one upside down (`label` 1)."""
    return _turned(seed=4, count=48)


def holdout_turned_lines() -> Iterator[Feed]:
    return _turned(seed=5, count=48)


def _pages(seed: int, count: int) -> Iterator[Feed]:
    random = np.random.default_rng(seed)
    for _ in range(count):
        height, width = (int(32 * random.integers(10, 14)) for _ in range(2))
        page = Image.new("RGB", (width, height), _paper(random))
        draw = ImageDraw.Draw(page)
        top = 8
        while top < height - 40:
            size = int(random.integers(14, 34))
            draw.text((8, top), _words(random, 4), _ink(random), ImageFont.load_default(size))
            top += size + int(random.integers(6, 30))
        yield _feed(page, random, _PAGE_MEAN, _PAGE_STD)


def _lines(seed: int, count: int) -> Iterator[Feed]:
    random = np.random.default_rng(seed)
    for _ in range(count):
        width = int(32 * random.integers(5, 11))
        yield _feed(_line(random, width), random, _LINE_MEAN, _LINE_STD)


def _turned(seed: int, count: int) -> Iterator[Feed]:
    random = np.random.default_rng(seed)
    for i in range(count):
        line = _line(random, 192)
        turned = line.transpose(Image.Transpose.ROTATE_180) if i % 2 else line
        feed = _feed(turned, random, _LINE_MEAN, _LINE_STD)
        yield {**feed, "label": np.array([i % 2])}


def _line(random: np.random.Generator, width: int) -> Image.Image:
    image = Image.new("RGB", (width, 48), _paper(random))
    font = ImageFont.load_default(int(random.integers(24, 38)))
    ImageDraw.Draw(image).text((4, 4), _words(random, 3), _ink(random), font)
    return image


def _words(random: np.random.Generator, count: int) -> str:
    return " ".join("".join(random.choice(_LETTERS, random.integers(2, 9))) for _ in range(count))


def _paper(random: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in random.integers(190, 256, 3))
    return red, green, blue


def _ink(random: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in random.integers(0, 110, 3))
    return red, green, blue


def _feed(
    image: Image.Image,
    random: np.random.Generator,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> Feed:
    """`x` float32 [1, 3, height, width], channels in OpenCV's order, with a camera's noise."""
    pixels = np.asarray(image, np.float32)[:, :, ::-1]
    noisy = np.clip(pixels + random.normal(0, 4, pixels.shape), 0, 255) / 255
    scaled = (noisy - np.array(mean)) / np.array(std)
    return {"x": np.ascontiguousarray(scaled.transpose(2, 0, 1)[np.newaxis], np.float32)}
