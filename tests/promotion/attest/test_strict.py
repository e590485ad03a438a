from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engineforge.errors import Untrusted
from engineforge.promotion.attest.strict import (
    MOST_BYTES,
    Fields,
    read_object,
    time_text,
    written,
)

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("abc"), inner),
    max_leaves=5,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.text("abcö"), PLAIN))
def test_what_is_written_is_read(raw: dict[str, object]) -> None:
    assert read_object(written(raw), "it") == raw


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b'{"a": 1, "a": 1}', "'a' occurs twice"),
        (b'{"a": {"b": 1, "\\u0062": 2}}', "'b' occurs twice"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "-Infinity"),
        (b'{"a": 1e999}', "1e999"),
        (b'{"a": "\\ud800"}', "surrogates"),
        (b'\xef\xbb\xbf{"a": 1}', "BOM"),
        ('{"a": 1}'.encode("utf-16"), "utf-8"),
        (b'{"a": 1} {}', "Extra data"),
        (b'{"a": "\xff"}', "utf-8"),
        (b"[1]", "no JSON object"),
        (b"", "no JSON"),
        (b'{"a":' * 100_000, "no JSON"),
        (b'{"a": ' + b"1" * 5000 + b"}", "no JSON"),
        (b" " * (MOST_BYTES + 1), "at most"),
    ],
    ids=lambda value: str(value[:12]),
)
def test_json_that_could_be_read_another_way_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(Untrusted, match=why):
        read_object(data, "it")


@pytest.mark.parametrize(
    "raw", [{"a": float("nan")}, {"a": "\ud800"}, {"a": "x" * MOST_BYTES}, {"a": float("inf")}]
)
def test_what_could_not_be_read_is_not_written(raw: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        written(raw)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.datetimes(timezones=st.sampled_from([timezone.utc, timezone(timedelta(hours=-7))])))
def test_a_time_that_is_written_is_read(time: datetime) -> None:
    try:
        text = time_text(time)
    except OverflowError:  # before the year 1, or after 9999, in UTC
        return
    assert Fields({"t": text}, "it").time("t") == time


def test_a_time_without_a_zone_is_not_written() -> None:
    with pytest.raises(ValueError, match="without a time zone"):
        time_text(datetime(2026, 7, 1))


def test_of_nanoseconds_microseconds_are_read() -> None:
    found = Fields({"t": "2026-07-01T12:00:00.123456789Z"}, "it").time("t")
    assert found == datetime(2026, 7, 1, 12, 0, 0, 123456, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    "text",
    [
        "2026-07-01T12:00:00",
        "2026-07-01T12:00:00+00:00",
        "2026-07-01 12:00:00Z",
        "2026-13-01T12:00:00Z",
        "2026-07-01T24:00:01Z",
        "2026-07-01T12:00:00.Z",
        "٢٠٢٦-07-01T12:00:00Z",
        "",
        7,
    ],
)
def test_what_is_no_time_is_refused(text: object) -> None:
    with pytest.raises(Untrusted, match=r"^it\.t: expected"):
        Fields({"t": text}, "it").time("t")


@pytest.mark.parametrize(
    ("ask", "value"),
    [
        ("text", 1),
        ("flag", 1),
        ("flag", "true"),
        ("number", True),
        ("number", "1"),
        ("number", 10**400),
        ("whole", 1.0),
        ("whole", True),
        ("whole", -1),
        ("mapping", []),
        ("fields", None),
        ("several", {}),
        ("texts", ["a", 1]),
        ("each", [1]),
        ("sha256", {"sha256": "0" * 63}),
        ("sha256", {"sha256": "0" * 64, "sha512": ""}),
        ("sha256", {"sha256": "A" * 64}),
        ("sha256", {}),
    ],
)
def test_a_field_of_another_kind_is_refused(ask: str, value: object) -> None:
    with pytest.raises(Untrusted, match="it"):
        getattr(Fields({"f": value}, "it"), ask)("f")


def test_a_field_that_is_left_over_is_named() -> None:
    fields = Fields({"a": 1, "b": 2}, "it")
    fields.whole("a")
    with pytest.raises(Untrusted, match="it: there is 'b', and this version"):
        fields.done()


def test_a_word_that_is_not_known_is_refused() -> None:
    with pytest.raises(Untrusted, match="expected 'PASSED' or 'FAILED', found 'OK'"):
        Fields({"a": "OK"}, "it").one_of("a", "PASSED", "FAILED")
