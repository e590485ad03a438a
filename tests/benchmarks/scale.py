"""What a cluster of GPUs does to 100,000 plans for 8 targets, simulated from measured costs.

`python -m tests.benchmarks.scale`. Measured are what planning costs a variant (`noop.py`), and how
long TensorRT 8.6 took for which model on an H200, cold and warm (README.md here). Assumed
are the mix of these models, a few very long builds, how much is stale, the size of an engine, and
what a driver and a remote store can do: each is an option. Simulated is only who builds when: each
target has its own share of the GPUs, and the longest build goes first.
"""

from __future__ import annotations

import argparse
import heapq
import random
from collections.abc import Iterator, Sequence

from tests.benchmarks.measure import table

COLD = (38.9, 18.0, 36.7, 33.0, 14.7, 18.7, 21.7, 11.2)
WARM = (11.0, 9.4, 8.1, 7.1, 13.3, 17.8, 31.7, 12.2)
"""Seconds of TensorRT's own build: ResNet-50 in four precisions, BERT-base in four."""

_HOUR = 3600.0


def makespan(seconds: Sequence[float], gpus: int) -> float:
    """When the last of these builds ends, the longest first, each on the GPU that is free first."""
    free = [0.0] * gpus
    for each in sorted(seconds, reverse=True):
        heapq.heapreplace(free, free[0] + each)
    return max(free)


def builds(count: int, args: argparse.Namespace, *, warm: bool) -> list[float]:
    """So many builds, as they come."""
    chosen = random.Random(count)  # the same in every run
    mean = WARM if warm else COLD
    found = []
    for _ in range(count):
        if chosen.random() < args.long_share:
            found.append(args.long_seconds)
        else:
            found.append(chosen.choice(mean) + args.overhead)
    return found


def nights(args: argparse.Namespace) -> Iterator[tuple[str, int, int, bool]]:
    """What is stale: how many plans, of how many targets, and whether timing caches help."""
    plans = args.plans
    yield f"a usual night: {args.stale:.0%} stale", round(plans * args.stale), args.targets, True
    yield "one target has a new TensorRT", plans, 1, False
    yield "everything is stale", plans, args.targets, False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    measured = parser.add_argument_group("measured", "at ten variants of a spec, by `noop.py`")
    measured.add_argument("--noop", type=float, default=15e-6, help="seconds a variant")
    measured.add_argument("--noop-memory", type=float, default=312, help="bytes a variant")
    measured.add_argument(
        "--known", type=float, default=38e-6, help="seconds a variant where another one is stale"
    )
    measured.add_argument("--known-memory", type=float, default=5900, help="bytes a variant then")
    measured.add_argument("--read", type=float, default=2.1e-3, help="seconds a stale variant")
    measured.add_argument("--index", type=float, default=1034, help="bytes of the file a variant")
    measured.add_argument("--copied", type=float, default=1.2e9, help="bytes of it a second")
    measured.add_argument("--overhead", type=float, default=0.34, help="seconds a build")
    assumed = parser.add_argument_group("assumed")
    assumed.add_argument("--plans", type=int, default=100_000)
    assumed.add_argument("--targets", type=int, default=8)
    assumed.add_argument("--gpus", type=int, nargs="+", default=(8, 64, 256, 1024))
    assumed.add_argument("--stale", type=float, default=0.01)
    assumed.add_argument("--long-share", type=float, default=0.01)
    assumed.add_argument("--long-seconds", type=float, default=1800)
    assumed.add_argument("--engine", type=float, default=50e6, help="bytes of an entry")
    assumed.add_argument("--store", type=float, default=1e9, help="bytes a second to the store")
    assumed.add_argument("--driver", type=float, default=200, help="builds a second it hands out")
    args = parser.parse_args()
    rows = []
    for what, plans, targets, warm in nights(args):
        stale = plans * targets
        planning = args.plans * args.targets * args.known + stale * args.read
        each = builds(plans, args, warm=warm)
        others = {
            "planning": planning,
            "the store": stale * args.engine / args.store,
            "the driver": stale / args.driver,
        }
        for gpus in args.gpus:
            # Of a target's own kind; where one target alone is stale, the others' GPUs stand idle.
            own = max(1, gpus // args.targets)
            busy = makespan(each, own)
            longest = {**others, "GPUs": busy}
            if busy < 1.02 * max(each):
                longest["one build"] = longest.pop("GPUs")
            slowest = max(longest, key=lambda name: longest[name])
            share = sum(each) / (own * busy)
            hours = planning + max(longest.values())
            rows.append(
                [
                    what,
                    f"{stale:,}",
                    str(gpus),
                    f"{hours / _HOUR:,.1f}",
                    f"{share:.0%}",
                    slowest,
                    ", ".join(f"{n} {s / _HOUR:.2f} h" for n, s in others.items()),
                ]
            )
    table(["night", "builds", "GPUs", "hours", "GPUs busy", "bound by", "besides"], rows)
    print()
    variants = args.plans * args.targets
    rows = []
    for shards in (1, 8, 64):
        each = variants // shards
        rows.append(
            [
                str(shards),
                f"{each:,}",
                f"{each * args.noop:.2f} s, {each * args.noop_memory / 1e6:,.0f} MB",
                f"{each * args.known:.2f} s, {each * args.known_memory / 1e6:,.0f} MB",
                f"{each * args.index / 1e6:,.0f} MB",
                f"{each * args.index / args.copied:.2f} s",
            ]
        )
    heads = ["shards", "variants of each", "no-op of one", "with something stale"]
    table([*heads, "index of one", "saved in"], rows)


if __name__ == "__main__":
    main()
