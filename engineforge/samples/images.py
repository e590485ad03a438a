"""A folder of images as samples, read with Pillow: one image a sample.

Pixels are taken as they are stored, 8 bits a channel, transparency dropped. An image is made gray
or RGB, then resized (bilinear, antialiased and rounded to 8 bits, as torchvision does with
Pillow's images), then scaled in float32. An image that its EXIF data says is to be turned is
refused: viewers and OpenCV turn it, Pillow and torchvision do not, and which of them stands before
the model in production is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from engineforge.samples import PILLOW, BadSamples
from engineforge.samples.rows import reading
from engineforge.samples.sample import Sample, Source
from engineforge.spec.model import ImageFolder, TensorInterface

_FLOATS = ("float32", "float16")
_DEEP = ("I", "F")  # modes of more than 8 bits start so; Pillow would cut them off
_BILINEAR = Image.Resampling.BILINEAR


def open_images(
    data: ImageFolder,
    root: Path,
    files: Sequence[Path],
    inputs: Sequence[TensorInterface],
    called: Callable[[Path], str],
    *,
    labelled: bool,
) -> Source:
    """The images as samples of the model's only input; of sub-folders, the name's place among all
    of them is the label, as in torchvision's `ImageFolder`."""
    if PIL.__version__.partition(".")[0] != PILLOW:
        message = f"{data}: images are read with Pillow {PILLOW}, found {PIL.__version__}"
        raise BadSamples(message, hint=f"python -m pip install 'pillow=={PILLOW}.*'")
    if len(inputs) != 1 or inputs[0].type not in _FLOATS:
        found = ", ".join(f"'{each.name}' {each.type}" for each in inputs)
        message = f"{data}: images are for a model with one input, of floats, found {found}"
        raise BadSamples(message, hint="write a function that gives the samples: {python: ...}")
    tensor = inputs[0]
    classes: dict[str, int] = {}
    if labelled:
        classes = _classes(root, files, called)

    def read(chosen: Iterable[int] | None) -> Iterator[Sample]:
        for index in range(len(files)) if chosen is None else chosen:
            path = files[index]
            with reading(path, called(path)):
                values = _read(data, path, called(path))
            feed = {tensor.name: values.astype(tensor.type, copy=False)}
            label = None
            if labelled:
                label = np.array([classes[path.relative_to(root).parts[0]]], np.int64)
            yield Sample(feed, label, called(path))

    return Source(len(files), read)


def _classes(root: Path, files: Sequence[Path], called: Callable[[Path], str]) -> dict[str, int]:
    parts = [path.relative_to(root).parts for path in files]
    for path, each in zip(files, parts, strict=True):
        if len(each) == 1:
            hint = "put the images of each class into a sub-folder of their own"
            raise BadSamples(f"{called(path)} has no label: it stands in no sub-folder", hint=hint)
    return {name: index for index, name in enumerate(sorted({each[0] for each in parts}))}


def _read(data: ImageFolder, path: Path, place: str) -> NDArray[np.float32]:
    """[1, channels, height, width], or with the channels last."""
    with Image.open(path) as opened:
        _check(opened, place)
        image = _sized(_plain(opened, data.channels), data)
    pixels = np.asarray(image, np.float32)
    pixels = pixels[:, :, np.newaxis] if data.channels == "gray" else pixels
    pixels = pixels[:, :, ::-1] if data.channels == "bgr" else pixels
    mean, std = (np.array([float(each) for each in of], np.float32) for of in (data.mean, data.std))
    values = (pixels / np.float32(float(data.divide)) - mean) / std
    if data.layout == "nchw":
        values = values.transpose(2, 0, 1)
    return np.ascontiguousarray(values[np.newaxis])


def _check(image: Image.Image, place: str) -> None:
    if image.mode.startswith(_DEEP):
        message = f"{place}: expected 8 bits a channel, found Pillow's mode '{image.mode}'"
        raise BadSamples(message, hint="convert it as in production, into an image or a .npz")
    # A phone's MPO has a preview behind the picture itself.
    if image.format != "MPO" and (frames := getattr(image, "n_frames", 1)) > 1:
        raise BadSamples(f"{place}: expected one image, found {frames} in one file")
    if (turned := image.getexif().get(ExifTags.Base.Orientation, 1)) not in (0, 1):
        message = f"{place} is to be turned before it is seen (EXIF orientation {turned})"
        hint = "store it as production gives it to the model: ImageOps.exif_transpose turns it"
        raise BadSamples(message, hint=hint)


def _plain(image: Image.Image, channels: str) -> Image.Image:
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns of the direct way
    return image.convert("L" if channels == "gray" else "RGB")


def _sized(image: Image.Image, data: ImageFolder) -> Image.Image:
    if data.size is None:
        return image
    height, width = data.size
    if data.fit == "pad":
        return ImageOps.pad(image, (width, height), _BILINEAR, color="black")
    if data.fit == "stretch":
        return image.resize((width, height), _BILINEAR)
    # torchvision's Resize to the shorter side, its rounding too, and CenterCrop.
    if height * image.width >= width * image.height:
        covering = (height * image.width // image.height, height)
    else:
        covering = (width, width * image.height // image.width)
    left, top = round((covering[0] - width) / 2), round((covering[1] - height) / 2)
    box = (left, top, left + width, top + height)
    return image.resize(covering, _BILINEAR).crop(box)
