"""The page as text: it says what the report says, and nothing in that becomes part of the page."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from html.parser import HTMLParser
from typing import Any

import pytest

pytest.importorskip("jinja2", reason="needs: python -m pip install 'engineforge[report]'")

from engineforge.report.page.html import page, plain
from tests.report.documents import (
    build,
    checked,
    failure,
    large,
    last,
    report,
    serving,
    timed,
    variant,
)

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</script><script>alert(1)</script>",
    "<!--",
    "javascript:alert(1)",
    "{{ 7*7 }}{% raw %}",
    "&lt;b&gt;",
    "\u202egnp.exe\u2066",
    "a\x00b\x1b[31m",
    "\ud800",
    "\u2028\u2029",
    "]]>",
)


class _Elements(HTMLParser):
    """What a page is made of: elements with attributes, and all of its text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def _hostile(text: str) -> dict[str, Any]:
    """A report in which everything that may be named by others is called so."""
    label = f"{text}/{text}@{text}"
    return report(
        [
            variant(
                label,
                spec=text,
                variant=text,
                target=text,
                label=label,
                precision=text,
                why=[text],
                unfit=text,
                state="stale",
                last=last(label, host=text, git=text, warnings=[text]),
                accuracy={
                    "asked": True,
                    "model": {**checked(0.1, text), "outputs": {text: {"relative_error": 0.1}}},
                    "engine": None,
                },
                latency=timed(1.5, text),
                environments={text: {**serving(fresh=False, why=text), "overridden": [text]}},
                failure=failure(text, text, text, text),
            ),
            variant("b/x@y", latency=timed(1.0, text)),
        ],
        project=text,
        git=text,
        environments=[
            {"name": text, "from": text, "unreachable": None, "faults": {text: text}},
            {"name": "far", "from": None, "unreachable": text, "faults": {}},
        ],
        builds=[build(label, why=text)],
        promotions=[
            {
                **dict.fromkeys(("environment", "spec", "by", "reason", "from"), text),
                "number": 1,
                "action": "promote",
                "time": "2026-10-01T03:00:00Z",
                "signed_by": [text],
                "changed": [text],
                "dropped": [text],
                "overridden": [text],
            }
        ],
        problems=[
            {"file": text, "line": 1, "column": 1, "path": text, "message": text, "hint": text}
        ],
        notes=[text],
    )


def _details(text: str) -> list[Any]:
    packed = re.search(r'id="details">([^<]*)<', text)
    assert packed
    found: list[Any] = json.loads(zlib.decompress(base64.b64decode(packed[1])))
    return found


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_a_name_becomes_no_part_of_the_page(text: str) -> None:
    named, harmless = (_Elements(page(_hostile(each))) for each in (text, "harmless"))
    assert [tag for tag, _ in named.found] == [tag for tag, _ in harmless.found]
    assert [sorted(each) for _, each in named.found] == [sorted(each) for _, each in harmless.found]


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_a_name_is_shown_as_it_is_and_what_is_not_seen_is_spelled_out(text: str) -> None:
    made = page(_hostile(text))
    assert plain(text) in _Elements(made).text
    assert _details(made)[0]["why"] == [plain(text)]
    assert not [each for each in made if not (each.isprintable() or each == "\n")]


def test_what_directs_writing_is_spelled_out() -> None:
    assert plain("a\u202eb\x00\x1b\u2028") == "a\\u202eb\\x00\\x1b\\u2028"
    assert plain("é 日本 שלום 🚀\n\t") == "é 日本 שלום 🚀\n\t"


def test_no_link_leads_out_of_the_page() -> None:
    for text in ("javascript:alert(1)", "https://example.com"):
        for _, attributes in _Elements(page(_hostile(text))).found:
            for name in ("href", "src", "action"):
                address = attributes.get(name)
                assert address is None or address.startswith(("#", "data:,")), address


def test_only_the_script_and_the_style_of_the_page_count() -> None:
    made = page(large(20))
    policy = dict(
        each.strip().partition(" ")[::2]
        for each in (_Elements(made).found[3][1]["content"] or "").split(";")
    )
    assert policy["default-src"] == "'none'"
    for name, pattern in (
        ("script-src", r"<script>(.*?)</script>"),
        ("style-src", r"<style>(.*?)<"),
    ):
        texts = re.findall(pattern, made, flags=re.DOTALL)
        assert len(texts) == 1
        digest = base64.b64encode(hashlib.sha256(texts[0].encode()).digest()).decode()
        assert policy[name] == f"'sha256-{digest}'"


def test_nothing_is_fetched_and_no_style_stands_in_an_element() -> None:
    for tag, attributes in _Elements(page(large(60))).found:
        assert "style" not in attributes
        assert not [name for name in attributes if name.startswith("on")]
        assert tag not in ("img", "iframe", "object", "embed", "base", "audio", "video")


def test_equal_reports_give_equal_pages() -> None:
    assert page(large(30)) == page(large(30))


def test_what_a_row_leaves_out_is_in_the_page() -> None:
    (found,) = _details(page(report([variant("net/fp32@ada", why=["it is new"])])))
    assert found["why"] == ["it is new"]
    assert found["last"]["host"] == "builder-1"
    assert "failure" not in found


def test_a_project_without_variants_has_a_page_too() -> None:
    made = page(report([]))
    assert "The store has no engine of these specs." in made
    assert "<b>0</b> variants" in made


def test_an_environment_that_cannot_be_asked_is_said() -> None:
    unreachable: dict[str, Any] = {
        "name": "prod",
        "from": None,
        "unreachable": "no answer",
        "faults": {},
    }
    assert "<b>prod</b> could not be asked: no answer" in page(
        report([variant("a/x@y")], environments=[unreachable])
    )


def test_without_environments_that_is_said() -> None:
    assert "No environments: " in page(report([variant("a/x@y")]))


def test_a_log_that_breaks_off_is_said_to() -> None:
    made = page(report([variant("a/x@y")], log={"events": 3, "cut": True}))
    assert "says of 3 variants how they ended, and breaks off: that run was killed." in made
