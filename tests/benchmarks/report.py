"""How heavy the page of a report is, and how fast a headless Chromium opens it: run on demand.

    python -m tests.benchmarks.report [VARIANTS]     (default: 2000)

What "open" means: from the start of the navigation to the end of the page's own script, by the
browser's clock (`loadEventEnd`), then the first paint after that. Beside it the same of a page that
is empty, and what filtering, sorting and opening a row take.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from engineforge.report.page.html import page
from tests.report.browser import Browser, browser
from tests.report.documents import large

_ROUNDS = 5
_EMPTY = "<!doctype html><meta charset=utf-8><title>empty</title>"
_OPENED = """
const done = arguments[0];
requestAnimationFrame(() => requestAnimationFrame(() => {
  const [entry] = performance.getEntriesByType("navigation");
  done([entry.loadEventEnd, performance.now()]);
}));
"""
_TIMED = """
const began = performance.now();
{act}
document.body.offsetHeight;
return performance.now() - began;
"""
_ACTS = {
    "filter": "const q = document.getElementById('q'); q.value = 'int8 h200'; "
    "q.dispatchEvent(new Event('input', {bubbles: true}));",
    "clear": "document.querySelector('.filters button').click();",
    "sort": "document.querySelectorAll('#table thead button')[3].click();",
    "open": "document.querySelector('#table tbody tr th button').click();",
}


def main(count: int) -> None:
    began = time.process_time()
    text = page(large(count))
    print(f"{count} variants: {len(text.encode()) / 1e6:.2f} MB, ", end="")
    print(f"made in {time.process_time() - began:.2f} s of CPU")
    with tempfile.TemporaryDirectory() as folder, browser() as one:
        full, empty = Path(folder) / "full.html", Path(folder) / "empty.html"
        full.write_text(text, encoding="utf-8")
        empty.write_text(_EMPTY, encoding="utf-8")
        times: dict[Path, list[list[float]]] = {full: [], empty: []}
        for _ in range(_ROUNDS):
            for path, found in times.items():
                found.append(_opened(one, path))
        for name, path in (("page", full), ("empty", empty)):
            loaded, painted = (median(each[at] for each in times[path]) for at in (0, 1))
            print(f"{name:8} loaded {loaded:7.0f} ms, painted {painted:7.0f} ms")
        one.open(full)
        for name, act in _ACTS.items():
            print(f"{name:8} {one.run(_TIMED.format(act=act)):7.0f} ms")


def _opened(one: Browser, path: Path) -> list[float]:
    one.open(path)
    found: list[float] = one.driver.execute_async_script(_OPENED)
    return found


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
