"""What EngineForge adds to the peak memory of a build of a 1 GB model.

Measured is the whole tree of processes, every 10 ms: the sum of their proportional set sizes (PSS,
/proc/*/smaps_rollup), in which a page that several share counts once. The bare script holds the
engine in memory (`build_serialized_network`), or writes it as it is serialized (`--stream`), which
is what EngineForge does: the budget is over the latter. Prints what each process had at the peak.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.measure import settle, table, verdict
from tests.benchmarks.subjects import BY_NAME, CAPABILITIES, Project, Subject, project

MEGABYTES = 64.0
_EVERY = 0.01


def main() -> None:
    args = _arguments()
    rows = []
    with project(args.subjects, args.folder) as made:
        for name in args.subjects:
            rows.append(_measured(made, BY_NAME[name], args.rounds))
    print()
    head = ["model", "bare MB", "bare, streamed MB", "ours MB", "extra over bare", "over streamed"]
    table([*head, "<= 64 MB"], rows)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    large = [name for name in BY_NAME if "1gb" in name]
    parser.add_argument("subjects", nargs="*", default=large, help=f"of: {', '.join(BY_NAME)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="where models, caches and engines are written")
    return parser.parse_args()


def _measured(made: Project, subject: Subject, rounds: int) -> list[str]:
    here = made.scratch / "run"
    engine = here / "bare.engine"
    commands = {
        "bare": made.bare(subject, engine, CAPABILITIES[0]),
        "streamed": made.bare(subject, engine, CAPABILITIES[0], "--stream"),
        "ours": made.forge(subject.name, here / "cache"),
    }
    peaks: dict[str, list[float]] = {side: [] for side in commands}
    for _ in range(rounds):
        for side, command in commands.items():
            here.mkdir()
            settle()
            sizes = _peak(command)
            shutil.rmtree(here)
            peaks[side].append(sum(sizes.values()))
            parts = ", ".join(f"{what} {size:.0f}" for what, size in sizes.items())
            print(f"# {subject.name}, {side}: {peaks[side][-1]:.0f} MB ({parts})", flush=True)
    bare, streamed, ours = (statistics.median(values) for values in peaks.values())
    return [
        subject.name,
        *(f"{value:.0f}" for value in (bare, streamed, ours)),
        f"{ours - bare:+.0f}",
        f"{ours - streamed:+.0f}",
        verdict(ours - streamed, MEGABYTES),
    ]


def _peak(command: Sequence[str]) -> dict[str, float]:
    """Megabytes of each process of the command's tree when their sum was largest."""
    peak: dict[str, float] = {}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            began = time.monotonic()
            now = {}
            for pid in _tree(process.pid):
                size = _pss(pid)
                if size:
                    now[f"{_name(pid)} {pid - process.pid:+d}"] = size
            if sum(now.values()) > sum(peak.values()):
                peak = now
            time.sleep(max(0.0, _EVERY - (time.monotonic() - began)))
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed")
    return peak


def _tree(pid: int) -> list[int]:
    found, waiting = [], [pid]
    while waiting:
        each = waiting.pop()
        found.append(each)
        for task in Path(f"/proc/{each}/task").glob("*/children"):
            waiting += map(int, _read(task).split())
    return found


def _pss(pid: int) -> float:
    for line in _read(Path(f"/proc/{pid}/smaps_rollup")).splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def _name(pid: int) -> str:
    words = _read(Path(f"/proc/{pid}/cmdline")).split("\0")
    return "child" if "engineforge.worker.child" in words else "main"


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # it has ended
        return ""


if __name__ == "__main__":
    main()
