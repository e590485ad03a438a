"""The report as one HTML page that needs nothing else: no network, no server, no cookies.

What the page says comes from models, specs and logs, which anybody may have written: every value is
escaped, what terminals and readers obey (controls, directions of writing, halves of characters) is
spelled out, and a Content-Security-Policy lets only this page's own script and style count.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from engineforge.errors import HostUnfit
from engineforge.report.page import daily, rows, scatter
from engineforge.report.text import duration, size

_MOST_BUILDS = _MOST_PROMOTIONS = 500
# Of what a row leaves out; the rest of the document stands in `--json` alone.
_DETAILS = (
    "why",
    "unfit",
    "stages",
    "plan",
    "toolchain",
    "last",
    "history",
    "accuracy",
    "latency",
    "environments",
    "failure",
)


def page(document: Mapping[str, Any]) -> str:
    """The page of a report; HostUnfit where Jinja is not installed. Equal documents give equal
    pages."""
    try:
        import jinja2
        from markupsafe import Markup
    except ImportError as error:
        raise HostUnfit(
            "the page is made with Jinja, which is not installed here",
            hint="python -m pip install 'engineforge[report]', or --json for the data",
        ) from error

    def shown(value: object) -> object:
        return value if isinstance(value, Markup) or not isinstance(value, str) else plain(value)

    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(duration=duration, size=size, plain=plain)
    style, script = _text("page.css"), _text("page.js")
    made = environment.from_string(_text("page.html")).render(
        **_parts(document),
        report=document,
        style=Markup(style),  # noqa: S704 - a file of this package
        script=Markup(script),  # noqa: S704
        details=_packed([_details(each) for each in document["variants"]]),
        policy=(
            "default-src 'none'; "
            f"script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data:; "
            "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
        ),
    )
    return made + "\n"


def plain(text: str) -> str:
    """The same with all that is not seen spelled out, but for ends of lines and tabs."""
    return "".join(
        each if each.isprintable() or each in "\n\t" else each.encode("unicode_escape").decode()
        for each in text
    )


def _parts(document: Mapping[str, Any]) -> dict[str, Any]:
    variants = document["variants"]
    made = [rows.row(each) for each in variants]
    asked = [each for each in document["environments"] or () if not each["unreachable"]]
    environments = [each["name"] for each in asked]
    counts = Counter(each.status for each in made)
    plotted = scatter.plots(variants)
    return {
        "rows": made,
        "statuses": [(name, *words, counts[name]) for name, words in rows.STATUSES.items()],
        "signs": rows.STATUSES,
        "targets": sorted({each.target for each in made}),
        "precisions": sorted({each.precision for each in made if each.precision}),
        "environments": environments,
        "matrix": rows.matrix(variants, environments),
        "failures": [each for each in variants if each["failure"]],
        "failed_checks": [each for each in variants if rows.status(each) == "check-failed"],
        "outdated": [
            (each["label"], name, there)
            for each in variants
            for name, there in each["environments"].items()
            if there["fresh"] is False
        ],
        "plots": plotted,
        "drawing": scatter,
        "daily": daily.daily(document["builds"]),
        "days": daily,
        "builds": document["builds"][:_MOST_BUILDS],
        "promotions": document["promotions"][:_MOST_PROMOTIONS],
        "total_size": sum(each.size or 0 for each in made),
        "total_seconds": sum(each.seconds or 0.0 for each in made),
    }


def _details(variant: Mapping[str, Any]) -> dict[str, Any]:
    """What the page shows of a variant when it is opened, without what is empty."""
    return {name: variant[name] for name in _DETAILS if variant.get(name)}


def _packed(value: object) -> str:
    """JSON, deflated, in base64: what a row leaves out is asked for when it is opened, and would be
    half of the page."""
    text = json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode()


def _plain(value: object) -> object:
    match value:
        case str():
            return plain(value)
        case Mapping():
            return {plain(str(k)): _plain(v) for k, v in value.items() if v not in (None, [], {})}
        case list() | tuple():
            return [_plain(each) for each in value]
        case float() if value.is_integer():
            return int(value)
        case float():
            return float(f"{value:.6g}")
    return value


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _text(name: str) -> str:
    return files("engineforge.report.page").joinpath(name).read_text(encoding="utf-8")
