"""Values as YAML text that `spec/load.py` reads back as the same values.

Lists and small mappings stand in one line, as people write specs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

_WIDTH = 100
# What needs no quotes: no indicator at its beginning, no `: ` or ` #` in it, nothing that YAML 1.1
# reads as something else than text.
_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./+-]*|\.{1,2}/[A-Za-z0-9_./+-]*|[0-9]+[KMGT]iB")
_WORDS = frozenset(["y", "n", "yes", "no", "on", "off", "true", "false", "null"])
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff]")


def scalar(value: object) -> str:
    """A number, a truth value or a text, in quotes where it needs them."""
    if isinstance(value, str):
        if _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
            return value
        if _CONTROL.search(value):
            quoted = json.dumps(value, ensure_ascii=False)
            return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", quoted)
        return "'" + value.replace("'", "''") + "'"
    return json.dumps(value)


def flow(value: Any) -> str:  # noqa: ANN401 - any value of a spec
    """A value in one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{scalar(k)}: {flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(flow, value)) + "]"
    return scalar(value)


def lines(values: Mapping[str, Any], indent: int = 0) -> Iterator[str]:
    """A mapping, a key a line, and its mappings below where they do not fit into one."""
    before = " " * indent
    for key, value in values.items():
        short = f"{before}{scalar(key)}: {flow(value)}"
        nested = isinstance(value, Mapping) and any(
            isinstance(each, Mapping | list) and each for each in value.values()
        )
        if isinstance(value, Mapping) and value and (nested or len(short) > _WIDTH):
            if indent and len(short) <= _WIDTH:
                yield short
            else:
                yield f"{before}{scalar(key)}:"
                yield from lines(value, indent + 2)
        elif isinstance(value, list) and len(short) > _WIDTH:
            yield f"{before}{scalar(key)}:"
            yield from (f"{before}  - {flow(each)}" for each in value)
        else:
            yield short


def comment(text: str, indent: int = 0) -> Iterator[str]:
    """Text as comments, broken at spaces."""
    import textwrap

    before = " " * indent + "# "
    for line in text.splitlines() or [""]:
        visible = _CONTROL.sub("?", line)
        yield from textwrap.wrap(
            visible,
            _WIDTH,
            initial_indent=before,
            subsequent_indent=before + "  ",
            break_long_words=False,
            break_on_hyphens=False,
        ) or [before.rstrip()]
