"""What EngineForge costs over a bare script that makes the same API calls, per build.

Both are whole processes, from start to end: `engineforge build` of one variant from an empty cache,
and bare.py with the same model, profile, options and compute capability. They run in turns; what is
printed is the median over rounds of (EngineForge - bare) in the same round. With four variants in
one run (one job at a time) the bare side is four scripts, one after the other. Models are in the
page cache; writes settle between runs, untimed.

The engines must be equally long. Their bytes differ between any two runs of the same script, since
TensorRT-RTX numbers its tensors (`__mye5607`) in the order in which its threads come to them.

`--durable`: the bare script fsyncs its engine too, as EngineForge always does.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from tests.benchmarks.measure import Pairs, quiet, settle, spread, table, verdict
from tests.benchmarks.subjects import BY_NAME, CAPABILITIES, Project, Subject, project

SECONDS, PERCENT = 0.3, 3.0


def main() -> None:
    args = _arguments()
    rows = []
    with project(args.subjects, args.folder) as made:
        for name in args.subjects:
            subject = BY_NAME[name]
            for capabilities in (CAPABILITIES[:many] for many in args.variants):
                rounds = args.rounds or subject.rounds
                found, equal = _measure(made, subject, capabilities, rounds, durable=args.durable)
                rows.append(_row(subject, len(capabilities), found, equal=equal))
                print(f"# {' '.join(rows[-1])}", flush=True)
    print()
    head = ["model", "variants", "bare s", "ours s", "extra s a build", "extra %"]
    table([*head, "<= 0.3 s", "<= 3 %", "sizes"], rows)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("subjects", nargs="*", default=[*BY_NAME], help=f"of: {', '.join(BY_NAME)}")
    parser.add_argument("--rounds", type=int, help="pairs for each (default: 7, and 3 for 1 GB)")
    parser.add_argument(
        "--variants", type=int, nargs="+", default=[1, 4], choices=[1, 4], help="in one run"
    )
    parser.add_argument("--folder", help="where models, caches and engines are written")
    parser.add_argument("--durable", action="store_true", help="fsync the bare engine too")
    return parser.parse_args()


def _measure(
    made: Project, subject: Subject, capabilities: Sequence[str], rounds: int, *, durable: bool
) -> tuple[Pairs, bool]:
    """Seconds of a build, and whether both sides gave engines of the same sizes in every round."""
    options = ["--fsync"] if durable else []
    spec = subject.name if len(capabilities) == 1 else f"{subject.name}-four"
    seconds: dict[str, list[float]] = {"bare": [], "ours": []}
    equal = True
    for i in count(-1):  # the first round only fills the page cache
        if i == rounds:
            break
        sizes = {}
        for side in ("bare", "ours") if i % 2 else ("ours", "bare"):
            here = made.scratch / side
            here.mkdir()
            commands = (
                [made.forge(spec, here, "--jobs", "1")]
                if side == "ours"
                else [made.bare(subject, here / f"{c}.engine", c, *options) for c in capabilities]
            )
            settle()
            started = time.perf_counter()
            for command in commands:
                quiet(command)
            if i >= 0:
                seconds[side].append((time.perf_counter() - started) / len(capabilities))
            sizes[side] = _engines(here)
            shutil.rmtree(here)
        equal = equal and len(sizes["bare"]) > 0 and sizes["bare"] == sizes["ours"]
    return Pairs(seconds["bare"], seconds["ours"]), equal


def _engines(folder: Path) -> list[int]:
    return sorted(path.stat().st_size for path in folder.rglob("*.engine"))


def _row(subject: Subject, variants: int, found: Pairs, *, equal: bool) -> list[str]:
    return [
        subject.name,
        str(variants),
        f"{statistics.median(found.bare):.2f}",
        f"{statistics.median(found.ours):.2f}",
        spread(found.extra, "+.3f"),
        spread(found.percent, "+.1f"),
        verdict(statistics.median(found.extra), SECONDS),
        verdict(statistics.median(found.percent), PERCENT),
        "equal" if equal else "DIFFER",
    ]


if __name__ == "__main__":
    main()
