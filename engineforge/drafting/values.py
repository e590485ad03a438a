"""What stands behind the equals sign of a flag of trtexec, as values; ValueError where it is wrong.

The forms are those of `trtexec --help`.
"""

from __future__ import annotations

import math
import re

Shape = tuple[int, ...]
_UNITS = {"B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_SUFFIXES = (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))
_BARE_NUMBER = re.compile(r"[0-9]+")


def items(text: str) -> list[str]:
    """What commas separate, without the space around it; names in single quotes stay whole."""
    found = [""]
    quoted = False
    for char in text:
        quoted ^= char == "'"
        if char == "," and not quoted:
            found.append("")
        else:
            found[-1] += char
    return [each.strip() for each in found if each.strip()]


def named(item: str, form: str) -> tuple[str, str]:
    """`NAME:VALUE`; the name may have colons in it, and quotes around it."""
    name, colon, value = item.rpartition(":")
    if not colon or not name.strip("' "):
        raise ValueError(f"expected {form}, found '{item}'")
    return name.strip().replace("'", ""), value.strip()


def shapes(text: str) -> dict[str, Shape]:
    """`a:1x3x224x224,'b:0':1`; a scalar has nothing behind its colon, or `scalar`."""
    found: dict[str, Shape] = {}
    for item in items(text):
        name, dims = named(item, "NAME:1x3x224x224")
        if dims in ("", "scalar"):
            found[name] = ()
            continue
        parts = dims.split("x")
        if not all(_BARE_NUMBER.fullmatch(part) for part in parts):
            raise ValueError(f"expected NAME:1x3x224x224, found '{item}'")
        found[name] = tuple(int(part) for part in parts)
    if not found:
        raise ValueError("expected NAME:1x3x224x224, found nothing")
    return found


def size(text: str, default: str = "M") -> int:
    """Bytes: `4096` MiB, `4G`, `0.5G`."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([BKMGbkmg]?)(?:i?[Bb])?", text.strip())
    if match is None:
        raise ValueError(f"expected a size such as 4096 (MiB) or 4G, found '{text}'")
    count = float(match[1]) * _UNITS[(match[2] or default).upper()]
    if count == math.inf:
        raise ValueError(f"expected a size such as 4096 (MiB) or 4G, found '{text[:20]}…'")
    return int(count)


def in_words(count: int) -> str | int:
    """A size as specs have it: `4GiB`; a number of bytes where no unit fits."""
    for suffix, unit in _SUFFIXES:
        if count and count % unit == 0:
            return f"{count // unit}{suffix}"
    return count


def whole(text: str) -> int:
    if not re.fullmatch(r"-?[0-9]+", text.strip()):
        raise ValueError(f"expected a whole number, found '{text}'")
    return int(text)


def switches(text: str) -> dict[str, bool]:
    """`+CUBLAS,-CUDNN`: on and off."""
    found = {}
    for item in items(text):
        if item[0] not in "+-" or len(item) == 1:
            raise ValueError(f"expected + or - before each name, found '{item}'")
        found[item[1:]] = item[0] == "+"
    return found
