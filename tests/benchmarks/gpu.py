"""What timing caches and several GPUs save, on this host's GPUs, with the project of tests/gpu.

`python -m tests.benchmarks.gpu PROJECT warm|nightly|gpus [SPEC…]`; PROJECT as tests.gpu.project
makes it, prepared. Each build is one of a new cache, so that nothing is up to date.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_NO_ENGINES = ("entries-v1/engine", "plans-v1", "index")


class Bench:
    """The project, and caches made from the one in which its models are prepared."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def cache(self, name: str, like: str = "cache") -> str:
        """A cache with the prepared models of another and its shared timings, but no engines."""
        made, source = self.root / name, self.root / like
        shutil.rmtree(made, ignore_errors=True)
        # Entries are read, never written: links will do.
        shutil.copytree(source, made, copy_function=lambda a, b: Path(b).hardlink_to(a))
        for each in _NO_ENGINES:
            path = made / each
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(True)
        return name

    def engineforge(self, *words: str) -> tuple[dict[str, Any], float]:
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "engineforge", *words, "--json"],
            cwd=self.root,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        seconds = time.monotonic() - started
        found: dict[str, Any] = json.loads(done.stdout)
        for each in found["variants"]:
            if each["outcome"] in ("failed", "skipped"):
                said = each.get("error") or each.get("why")
                print(f"{each['spec']}/{each['variant']}: {each['outcome']}: {said}")
        return found, seconds


def warm(bench: Bench, specs: Sequence[str]) -> None:
    """Each engine built cold, then once more from its own timing cache: seconds of TensorRT's own
    build, and how far both agree."""
    cache = bench.cache("cache-warm")
    _, seconds = bench.engineforge("build", *specs, "--cold", "--keep-going", "--cache", cache)
    print(f"all cold in {seconds:.0f} s; the same from their own timing caches:")
    found, _ = bench.engineforge("verify", "--rebuild", *specs, "--keep-going", "--cache", cache)
    for each in found["variants"]:
        if each["outcome"] == "rebuilt":
            before, now = each["seconds_before"], each["seconds"]
            ratio = before / now
            name = f"{each['spec']}/{each['variant']}"
            print(f"{name:28} {before:6.1f} s to {now:6.1f} s  {ratio:.2f} x  {each['level']}")
            print(f"{'':28} {each['said']}")


def nightly(bench: Bench, specs: Sequence[str]) -> None:
    """All plans with an empty shared timing cache, as in a first night, then all stale again, with
    what that night has timed. (What the first night's plans learn from each other counts for it.)
    """
    words = ["build", *specs, "--keep-going", "--cache"]
    first = bench.cache("cache-first")
    shutil.rmtree(bench.root / first / "timing-v1", ignore_errors=True)
    _, without = bench.engineforge(*words, first)
    found, with_shared = bench.engineforge(*words, bench.cache("cache-second", like=first))
    count = sum(each["outcome"] == "built" for each in found["variants"])
    print(
        f"{count} plans: {without:.1f} s first, {with_shared:.1f} s with the shared timing cache: "
    )
    print(f"{without / with_shared:.2f} x")


def gpus(bench: Bench, specs: Sequence[str]) -> None:
    """The same plans on one GPU and on two."""
    words = ["build", *specs, "--keep-going", "--cold", "--cache"]
    _, one = bench.engineforge(*words, bench.cache("cache-one"), "--gpus", "0")
    found, two = bench.engineforge(*words, bench.cache("cache-two"), "--gpus", "0,1")
    count = sum(each["outcome"] == "built" for each in found["variants"])
    print(f"{count} plans: {one:.1f} s on one GPU, {two:.1f} s on two: {one / two:.2f} x")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("project", type=Path)
    parser.add_argument("what", choices=("warm", "nightly", "gpus"))
    parser.add_argument("specs", nargs="*", default=["specs"])
    arguments = parser.parse_args()
    run = {"warm": warm, "nightly": nightly, "gpus": gpus}[arguments.what]
    run(Bench(arguments.project), arguments.specs)
