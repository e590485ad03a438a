"""The page in a real browser: it opens without a complaint and asks for nothing, and what it offers
works, by mouse, by keys, by links and on a phone."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("jinja2", reason="needs: python -m pip install 'engineforge[report]'")
pytest.importorskip("selenium", reason="needs: python -m pip install 'engineforge[test]'")

from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from engineforge.report.page.html import page
from engineforge.report.page.rows import row
from tests.report.browser import CHROMIUM, DRIVER, NEEDS, Browser, browser, is_local
from tests.report.documents import failure, large, report, variant
from tests.report.page.test_html import HOSTILE, _hostile

pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason=NEEDS)

_REPORT = large(60)
_LABELS = [each["label"] for each in _REPORT["variants"]]


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page(_REPORT), encoding="utf-8")
    return path


@pytest.fixture
def opened(window: Browser, file: Path) -> Browser:
    window.open(file)
    return window


def _details(window: Browser) -> str:
    """Of the row that is open, as soon as it has been unpacked."""
    script = "return document.querySelector('tr.open')?.innerText || ''"
    WebDriverWait(window.driver, 10).until(lambda _: "ENGINE" in window.run(script).upper())
    return str(window.run(script))


def _focused(window: Browser) -> str:
    return str(window.run("return document.activeElement.closest('tr')?.id ?? ''"))


def test_it_opens_without_a_complaint_and_asks_for_nothing(opened: Browser, file: Path) -> None:
    opened.click("#table tbody tr th button")
    _details(opened)
    assert opened.complaints() == []
    assert opened.requests() == [file.as_uri()]


def test_what_is_not_the_pages_own_script_does_not_run(window: Browser, tmp_path: Path) -> None:
    path = tmp_path / "tampered.html"
    text = page(_REPORT).replace("<main>", "<main><script>window.ran = 1</script>")
    path.write_text(text.replace("</main>", "<img src='http://127.0.0.1:9/x'></main>"))
    window.open(path)
    assert window.run("return window.ran ?? 0") == 0
    assert len([each for each in window.complaints() if "Content Security Policy" in each]) == 2
    failed = [each["params"] for each in window.logs() if each["method"] == "Network.loadingFailed"]
    assert [each["blockedReason"] for each in failed] == ["csp"]


def test_hostile_names_are_text(window: Browser, tmp_path: Path) -> None:
    for at, text in enumerate(HOSTILE):
        path = tmp_path / f"hostile-{at}.html"
        path.write_text(page(_hostile(text)), encoding="utf-8")
        window.open(path)
        window.click("#table tbody tr th button")
        _details(window)
        assert window.complaints() == []
        assert all(map(is_local, window.requests()))
        assert window.run("return document.scripts.length") == 2
        assert window.run("return document.images.length") == 0


def test_words_filter_rows_and_all_must_be_there(opened: Browser) -> None:
    opened.driver.find_element("id", "q").send_keys("INT8 l4")
    assert opened.shown() == [each for each in _LABELS if "int8" in each and each.endswith("l4")]
    assert opened.run("return document.getElementById('count').textContent") == "3 of 60"
    opened.click(".filters button")
    assert opened.shown() == _LABELS


def test_states_targets_and_precisions_filter_rows(opened: Browser) -> None:
    for field, value in (("t", "h200"), ("p", "fp16")):
        opened.click(f"#{field} option[value='{value}']")
    assert opened.shown() == [each for each in _LABELS if each.endswith("/fp16@h200")]


def test_a_tile_shows_what_is_in_that_state(opened: Browser) -> None:
    stale = [each["label"] for each in _REPORT["variants"] if row(each).status == "stale"]
    opened.click(".tiles a.stale")
    WebDriverWait(opened.driver, 10).until(lambda _: opened.shown() == stale)


def test_a_cell_of_the_matrix_shows_its_variants(opened: Browser) -> None:
    opened.click(".matrix tbody td a")
    expected = [each for each in _LABELS if each.startswith("ocr/detector/") and "h200" in each]
    WebDriverWait(opened.driver, 10).until(lambda _: opened.shown() == expected)


def test_a_view_is_a_link(opened: Browser, file: Path) -> None:
    opened.click("#t option[value='l4']")
    opened.click("#table thead button[data-k='size']")
    opened.click("#table thead button[data-k='size']")
    shown, address = opened.shown(), str(opened.run("return location.hash"))
    assert address == "#?t=l4&o=-size"
    opened.open(file, address)
    assert opened.shown() == shown


@pytest.mark.parametrize(("key", "number"), [("size", "size"), ("ms", "ms"), ("error", "error")])
def test_numbers_sort_as_numbers_and_what_has_none_is_last(
    opened: Browser, key: str, number: str
) -> None:
    values = {each["label"]: getattr(row(each), number) for each in _REPORT["variants"]}
    head = f"#table thead button[data-k='{key}']"
    for down in (False, True):
        opened.click(head)
        found = [values[label] for label in opened.shown()]
        known = [each for each in found if each is not None]
        assert known == sorted(known, reverse=down)
        assert found[len(known) :] == [None] * (len(found) - len(known))
        said = opened.run(f'return document.querySelector("{head}").parentNode.ariaSort')
        assert said == ("descending" if down else "ascending")


def test_an_open_row_goes_where_its_row_goes(opened: Browser) -> None:
    opened.click("#table tbody tr th button")
    _details(opened)
    opened.click("#table thead button[data-k='size']")
    before = "return document.querySelector('tr.open').previousElementSibling.id"
    assert opened.run(before) == _LABELS[0]


@pytest.mark.parametrize("label", [_LABELS[7], _LABELS[-1]] * 3)
def test_a_link_to_a_variant_opens_and_shows_it(window: Browser, file: Path, label: str) -> None:
    window.open(file, f"#{label}")
    WebDriverWait(window.driver, 10).until(lambda _: _focused(window) == label)
    assert "toolchain" in _details(window)
    seen = "const r = document.activeElement.getBoundingClientRect(); "
    # The browser goes there by itself as well, in the first frames after all is loaded.
    frame = "requestAnimationFrame(() => %s)"
    window.driver.execute_async_script(frame % (frame % (frame % "arguments[0]()")))
    assert window.run(seen + "return r.top >= 0 && r.bottom <= innerHeight")


def test_a_link_to_a_variant_that_is_filtered_out_shows_it(opened: Browser) -> None:
    opened.driver.find_element("id", "q").send_keys("no such thing")
    assert opened.shown() == []
    opened.run("location.hash = encodeURIComponent(arguments[0])", _LABELS[3])
    WebDriverWait(opened.driver, 10).until(lambda _: _focused(opened) == _LABELS[3])
    assert opened.shown() == _LABELS


@pytest.mark.parametrize("fragment", ["#%", "#nothing", "#?o=nothing&s=nothing", "#?"])
def test_a_link_that_means_nothing_breaks_nothing(
    window: Browser, file: Path, fragment: str
) -> None:
    window.open(file, fragment)
    assert window.complaints() == []


def test_keys_find_move_open_and_close(opened: Browser) -> None:
    opened.keys("/")
    assert opened.run("return document.activeElement.id") == "q"
    opened.keys("recognizer", Keys.ENTER)
    shown = opened.shown()
    assert _focused(opened) == shown[0]
    opened.keys("j", "j", "k", Keys.ARROW_DOWN)
    assert _focused(opened) == shown[2]
    opened.keys(Keys.ENTER)
    _details(opened)
    assert opened.run("return document.activeElement.ariaExpanded") == "true"
    opened.keys(Keys.ESCAPE)
    assert opened.run("return document.querySelectorAll('tr.open').length") == 0
    assert _focused(opened) == shown[2]


def test_one_row_alone_is_reached_by_tab(opened: Browser) -> None:
    reached = "return document.querySelectorAll(\"#table tbody [tabindex='0']\").length"
    assert opened.run(reached) == 1
    opened.keys("j", "j")
    assert opened.run(reached) == 1
    assert _focused(opened) == _LABELS[1]


def test_the_end_of_a_log_is_what_is_seen(window: Browser, tmp_path: Path) -> None:
    lines = [f"line {at}" for at in range(100)]
    path = tmp_path / "report.html"
    path.write_text(page(report([variant("a/x@y", failure=failure("engine", "no", *lines))])))
    window.open(path)
    gap = "const e = document.querySelector('pre.log'); "
    gap += "return e.scrollHeight - e.scrollTop - e.clientHeight"
    assert window.run(gap) < 2


@pytest.mark.parametrize("width", [320, 390, 1400])
def test_nothing_is_wider_than_the_window(opened: Browser, file: Path, width: int) -> None:
    opened.emulate(
        "Emulation.setDeviceMetricsOverride",
        width=width,
        height=800,
        deviceScaleFactor=1,
        mobile=width < 500,
    )
    try:
        opened.open(file)
        opened.click("#table tbody tr th button")
        _details(opened)
        wide = "const e = document.documentElement; return e.scrollWidth - e.clientWidth"
        assert opened.run(wide) == 0
    finally:
        opened.emulate("Emulation.clearDeviceMetricsOverride")


_CONTRAST = """
const light = (text) => {
  const [r, g, b] = text.match(/[0-9.]+/g).slice(0, 3).map((each) => each / 255)
    .map((each) => each <= 0.03928 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (node) => {
  for (let each = node; each; each = each.parentElement) {
    const color = getComputedStyle(each).backgroundColor;
    if (!color.endsWith(", 0)")) return color;
  }
  return "rgb(255, 255, 255)";
};
return [...document.querySelectorAll("td, th, small, .env, .dim, .sign, h1, h2, summary, .key")]
  .filter((each) => each.checkVisibility() && each.textContent.trim())
  .map((each) => {
    const [a, b] = [light(getComputedStyle(each).color), light(behind(each))];
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), each.outerHTML.slice(0, 80)];
  })
  .filter(([contrast]) => contrast < 4.5);
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_by_day_and_by_night(opened: Browser, scheme: str) -> None:
    """A contrast of 4.5 or more, as WCAG 2.1 AA asks."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    opened.emulate("Emulation.setEmulatedMedia", features=features)
    try:
        background = opened.run("return getComputedStyle(document.body).backgroundColor")
        assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(15, 20, 26)"}[scheme]
        assert opened.run(_CONTRAST) == []
    finally:
        opened.emulate("Emulation.setEmulatedMedia", features=[])


def test_it_prints_every_row_and_no_controls(opened: Browser) -> None:
    opened.emulate("Emulation.setEmulatedMedia", media="print")
    try:
        assert not opened.run("return document.querySelector('.filters').checkVisibility()")
        overflow = "const e = document.getElementById('table').parentNode; "
        assert opened.run(overflow + "return e.scrollHeight <= e.clientHeight + 1")
        printed = opened.emulate("Page.printToPDF", paperWidth=8.27, paperHeight=11.7)
        assert base64.b64decode(printed["data"]).startswith(b"%PDF-")
    finally:
        opened.emulate("Emulation.setEmulatedMedia", media="")
