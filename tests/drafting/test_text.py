"""Values as YAML that is read back as the same values."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engineforge.drafting.text import comment, flow, lines
from engineforge.spec.load import load

_TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
_VALUES = st.recursive(
    st.booleans() | st.integers(-(10**15), 10**15) | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=12,
)


def _read(text: str) -> Any:  # noqa: ANN401
    document, problems = load("file.yaml", text.encode())
    assert document is not None, text
    assert not problems, text
    return document.value


@given(st.dictionaries(_TEXT, _VALUES, min_size=1, max_size=4))
def test_values_are_read_back(values: dict[str, Any]) -> None:
    assert _read("\n".join(lines(values))) == values
    assert _read(flow(values)) == values


_TRAPS = (
    *("no", "Yes", "null", "~", "=", "<<", "", " a ", "a: b", "- a", "*x", "'", '"'),
    *("1e3", "0x10", "1_000", "12:30", "2024-01-01", ".inf", "a\nb", "\u2028", "\x7f"),
)


@pytest.mark.parametrize("word", _TRAPS)
def test_what_yaml_would_read_otherwise_is_in_quotes(word: str) -> None:
    assert _read(f"key: {flow(word)}") == {"key": word}


@given(_TEXT)
def test_a_comment_is_a_comment(text: str) -> None:
    body = "\n".join([*comment(text), "key: 1"])
    assert _read(body) == {"key": 1}
