"""Canonical JSON has one spelling per value, and digests are plain sha256."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from pathlib import Path, PurePosixPath
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engineforge.digest import (
    Digest,
    canonical_json,
    digest_bytes,
    digest_file,
    digest_stream,
    digest_value,
    document,
)

# Text that UTF-8 can write, and numbers that are exact in binary.
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
EXACT = st.integers(-(2**60), 2**60).map(lambda n: n / 1024)
LEAVES = st.none() | st.booleans() | st.integers() | TEXT
VALUES = st.recursive(
    LEAVES, lambda each: st.lists(each) | st.dictionaries(TEXT, each), max_leaves=20
)


@dataclass(frozen=True, kw_only=True)
class Point:
    x: int
    name: str
    inside: object = None


class Colour(Enum):
    RED = "red"


class Word(str):
    def __str__(self) -> str:
        return "something else"


@settings(deadline=None)
@given(VALUES)
def test_what_is_written_reads_back_as_it_was(value: object) -> None:
    assert json.loads(canonical_json(value)) == value


@settings(deadline=None)
@given(st.dictionaries(TEXT, VALUES))
def test_the_order_of_keys_is_irrelevant(value: dict[str, object]) -> None:
    backwards = dict(reversed(value.items()))
    assert canonical_json(backwards) == canonical_json(value)


@settings(deadline=None)
@given(VALUES, VALUES)
def test_equal_bytes_mean_equal_values(one: object, other: object) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (canonical_json(one) == canonical_json(other)) == same


@settings(deadline=None)
@given(VALUES)
def test_canonical_json_is_a_fixed_point(value: object) -> None:
    data = canonical_json(value)
    assert canonical_json(json.loads(data)) == data


@settings(deadline=None)
@given(EXACT)
def test_an_exact_float_keeps_its_value(value: float) -> None:
    try:
        data = canonical_json(value)
    except ValueError:
        # Its shortest decimal form is not the number itself.
        assert Decimal(repr(value)) != Decimal(value)
    else:
        assert json.loads(data) == value


@settings(deadline=None)
@given(st.integers(-(2**53), 2**53))
def test_a_whole_float_is_the_integer(value: int) -> None:
    assert canonical_json(float(value)) == canonical_json(value)


@settings(deadline=None)
@given(st.floats())
def test_no_float_is_written_as_another_number(value: float) -> None:
    try:
        data = canonical_json(value)
    except ValueError:
        return
    assert Decimal(data.decode()) == Decimal(value)


@pytest.mark.parametrize(
    ("value", "data"),
    [
        ({"b": 1, "a": [True, None]}, b'{"a":[true,null],"b":1}'),
        ({"é": "\u2028"}, '{"é":"\u2028"}'.encode()),
        # By code point, as Python sorts, not by UTF-16 unit.
        ({"\uffff": 1, "\U00010000": 2}, '{"\uffff":1,"\U00010000":2}'.encode()),
        ((1, (2,)), b"[1,[2]]"),
        (0.5, b"0.5"),
        (-0.0, b"0"),
        (2**200, str(2**200).encode()),
        ("\x00\n", b'"\\u0000\\n"'),
        (MappingProxyType({"a": 1}), b'{"a":1}'),
        (OrderedDict(b=1, a=2), b'{"a":2,"b":1}'),
        (Digest("sha256:" + "0" * 64), b'"sha256:' + b"0" * 64 + b'"'),
    ],
)
def test_a_value_has_one_spelling(value: object, data: bytes) -> None:
    assert canonical_json(value) == data


def test_text_is_its_characters_whatever_its_type_says() -> None:
    assert canonical_json({Word("a"): Word("b")}) == b'{"a":"b"}'


def test_true_is_not_one() -> None:
    assert canonical_json(True) != canonical_json(1)


def test_a_number_is_not_its_digits() -> None:
    assert canonical_json(1) != canonical_json("1")


@pytest.mark.parametrize(
    "value",
    [
        {1, 2},
        frozenset(),
        Path("/tmp"),  # noqa: S108 - a value that is refused, not a file that is used
        PurePosixPath("a"),
        b"bytes",
        bytearray(b"bytes"),
        Decimal("0.1"),
        Colour.RED,
        Point,
        object(),
        iter(()),
        1j,
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_without_a_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match=r"^value\.a\[0\]: .* has no canonical JSON form$"):
        canonical_json({"a": [value]})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 0.1, 1e23])
def test_a_float_that_is_not_what_its_digits_say_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"^value\.a: .* is not exact in binary; write it as a s"):
        canonical_json({"a": value})


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
def test_a_lone_surrogate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="surrogate"):
        canonical_json([text])


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
def test_a_lone_surrogate_is_refused_as_a_key_too(text: str) -> None:
    with pytest.raises(ValueError, match="surrogate"):
        canonical_json({text: 1})


@pytest.mark.parametrize("key", [1, None, True, 1.5, ("a",)])
def test_a_key_that_is_no_string_is_refused(key: object) -> None:
    with pytest.raises(TypeError, match=r"^value\.a: a key must be a string"):
        canonical_json({"a": {key: 1}})


def test_a_dataclass_is_an_object_of_its_fields() -> None:
    assert canonical_json(Point(x=1, name="p")) == b'{"inside":null,"name":"p","x":1}'


def test_dataclasses_nest() -> None:
    point = Point(x=1, name="p", inside=(Point(x=2, name="q"),))
    assert document(point)["inside"] == [{"x": 2, "name": "q", "inside": None}]


@pytest.mark.parametrize("field", ["x", "name", "inside"])
def test_every_field_of_a_dataclass_is_in_its_digest(field: str) -> None:
    values: dict[str, int | str] = {"x": 1, "name": "p", "inside": 0}
    changed: dict[str, int | str] = {**values, field: "another"}
    assert digest_value(Point(**values)) != digest_value(Point(**changed))  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [[1], "text", None, 1])
def test_a_document_is_an_object(value: object) -> None:
    with pytest.raises(TypeError, match="expected a dataclass or a mapping"):
        document(value)


def test_a_document_is_what_canonical_json_writes() -> None:
    value: Mapping[str, object] = {"b": (1.0, 0.5), "a": Point(x=1, name="p")}
    assert document(value) == json.loads(canonical_json(value))


def test_the_digest_of_a_fixed_document_never_changes() -> None:
    fixed: dict[str, object] = {
        "text": "é\n",
        "numbers": [0, -1, 0.25, 2.0, 10**30],
        "nothing": None,
        "yes": True,
        "nested": {"b": {}, "a": []},
    }
    assert (
        digest_value(fixed)
        == "sha256:8a6d0aa67251ac26f9fb308f948364727e7a0167989ee9847c3bdadb5ceceb82"
    )


def test_a_digest_is_sha256_in_the_spelling_of_oci() -> None:
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert digest_bytes(b"") == f"sha256:{empty}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0" * 64,
        "sha256:",
        "sha256:" + "0" * 63,
        "sha256:" + "0" * 65,
        "sha256:" + "A" * 64,
        "sha512:" + "0" * 64,
        "sha256:" + "0" * 64 + "\n",
        " sha256:" + "0" * 64,
    ],
)
def test_what_is_no_digest_cannot_be_one(text: str) -> None:
    with pytest.raises(ValueError, match="expected 'sha256:' and 64 hexadecimal digits"):
        Digest(text)


def test_the_digits_of_a_digest() -> None:
    digest = digest_bytes(b"x")
    assert digest == f"sha256:{digest.hex}"
    assert digest.short == digest.hex[:12]


# Around the size of a read, 1 MiB.
@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 9_999_999])
def test_the_digest_of_a_file_is_that_of_its_bytes(tmp_path: Path, size: int) -> None:
    data = hashlib.shake_128(b"seed").digest(size)
    path = tmp_path / "file"
    path.write_bytes(data)
    assert digest_file(path).hex == hashlib.sha256(data).hexdigest()


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        digest_file(tmp_path / "none")


@settings(deadline=None)
@given(data=st.binary(max_size=64), start=st.integers(0, 64), length=st.integers(0, 64))
def test_a_stretch_of_a_file_is_digested_or_missed(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, start: int, length: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "stretch"
    path.write_bytes(data)
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        if start + length <= len(data) or length == 0:
            assert digest_stream(file, length) == digest_bytes(data[start : start + length])
        else:
            with pytest.raises(EOFError, match="bytes are missing at the end"):
                digest_stream(file, length)
