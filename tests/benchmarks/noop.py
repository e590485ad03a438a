"""A build with nothing to do, of very many variants, beside ninja, doit, Snakemake and DVC.

`python -m tests.benchmarks.noop --tools VENV` (a virtual environment with those four) makes, for
each size, a project that is up to date (`built.py`: real specs, models, plan records and entries)
and for the others as many targets of as many files (`others.py`), and runs all in turns. Printed
are medians, and the medians of the ratios of one round; memory is the peak of the process (VmHWM)
over that of a bare interpreter. What it opens, loads and hashes is watched from outside of it. At
last one spec is changed, and planned with all the others and alone.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import engineforge
from tests.benchmarks.others import prepare

SIZES = ("1000x1", "10000x1", "10000x10", "100000x10")
_OTHERS = ("ninja", "doit", "snakemake", "dvc")
_CHANGED, _ALONE = "one spec changed", "that spec alone"
_DVC_MOST, _SLOW_MOST = 1_000, 10_000
_SLOW_ROUNDS = 3

# Runs the command, and writes at its end what it loaded, opened, hashed, and took of memory.
_WATCHED = """
import json, sys
before, opened = set(sys.modules), []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
said = sys.argv.pop(1)
try:
    if len(sys.argv) > 1:
        from engineforge.cli.main import main
        main()
finally:
    hashing = sorted({"hashlib", "_hashlib", "_sha2", "_sha256"} & set(sys.modules))
    loaded = sorted(set(sys.modules) - before)
    status = open("/proc/self/status").read()
    peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024
    with open(said, "w") as file:
        json.dump({"opened": opened, "loaded": loaded, "hashing": hashing, "peak": peak}, file)
"""
_PARSERS = {"yaml", "_yaml", "jsonschema", "onnx", "numpy", "rich", "tensorrt_rtx", "msgspec"}


@dataclass(slots=True)
class Found:
    """Of one size: seconds, and those of processors, of each tool by rounds; what was seen of
    EngineForge. `bare` are the bytes of an interpreter, `memory` those of a variant above it, with
    nothing to do and with one spec changed."""

    variants: int
    files: int
    seconds: dict[str, list[tuple[int, float, float]]] = field(default_factory=dict)
    bare: int = 0
    memory: float = 0
    memory_changed: float = 0
    opened: list[str] = field(default_factory=list)
    heavy: list[str] = field(default_factory=list)

    def median(self, tool: str) -> float:
        return statistics.median(each for _, each, _ in self.seconds[tool])

    def ratio(self, tool: str, than: str, *, of_processors: bool = False) -> float:
        """How many times as long as another one, in the median of the rounds of both."""
        which = 2 if of_processors else 1
        ours = {each[0]: each[which] for each in self.seconds[tool]}
        theirs = {each[0]: each[which] for each in self.seconds[than]}
        return statistics.median(ours[each] / theirs[each] for each in ours if each in theirs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tools", type=Path, required=True, help="a venv with the other tools")
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="variants x variants of a spec")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--folder", type=Path, help="where projects are made, and kept")
    parser.add_argument("--without", nargs="*", default=[], choices=_OTHERS)
    parser.add_argument("--slow-most", type=int, default=_SLOW_MOST, help="variants of Snakemake")
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    # As `pip install` leaves it: this benchmark is not of the compiler.
    compileall.compile_dir(Path(engineforge.__file__).parent, quiet=1)
    with tempfile.TemporaryDirectory(prefix="engineforge-noop-") as made:
        folder = args.folder or Path(made)
        found = {size: _measured(size, folder.absolute(), args) for size in args.sizes}
    print("\n".join(_table(found)))
    if args.plot:
        _plot(found, args.plot)


def _measured(size: str, folder: Path, args: argparse.Namespace) -> Found:
    count, each = map(int, size.split("x"))
    ours, theirs = folder / f"e-{count}-{each}", folder / f"o-{count}-{each}"
    if not (ours / "cache" / "index").exists():
        words = ["--count", str(count), "--each", str(each)]
        subprocess.run(
            [sys.executable, "-m", "tests.benchmarks.built", str(ours), *words], check=True
        )
    names = set(_OTHERS) - set(args.without)
    names -= {"dvc"} if count > _DVC_MOST else set()
    names -= {"snakemake"} if count > args.slow_most else set()
    shutil.rmtree(theirs, ignore_errors=True)
    others = prepare(theirs, args.tools.absolute(), count, each, names)
    commands: dict[str, Sequence[str]] = {
        word: (sys.executable, "-m", "engineforge", word, "specs") for word in ("build", "plan")
    }
    for word, command in commands.items():
        for _ in range(2):  # remembers what was too new to trust
            _run(command, ours, os.environ, "up to date", word)
    # Of each variant a plan record and an entry, of each spec its text and its model.
    found = Found(count, 4 * count + 2 * count // each)
    _look(found, ours)
    os.sync()
    for number in range(args.rounds):
        turn: list[tuple[str, Sequence[str], Path, Mapping[str, str], str]] = [
            (word, command, ours, os.environ, "up to date") for word, command in commands.items()
        ]
        turn += [
            (other.name, other.command, other.folder, other.environment, other.says)
            for other in others
            if other.name in ("ninja", "doit") or number < _SLOW_ROUNDS
        ]
        for name, command, where, environment, says in turn if number % 2 else reversed(turn):
            seconds = _run(command, where, environment, says, name)
            found.seconds.setdefault(name, []).append((number, *seconds))
    _change(found, ours, args.rounds)
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    print(f"{size}: {found.files} files; load {load}", file=sys.stderr)
    return found


def _change(found: Found, folder: Path, rounds: int) -> None:
    """What one changed spec costs, with all the others and without them; nothing is built."""
    spec = folder / "specs" / "net-000000.yaml"
    text = spec.read_text()
    spec.write_text(text.replace("opt: [4,", "opt: [5,"))
    try:
        for number in range(rounds):
            for name, path in ((_CHANGED, "specs"), (_ALONE, f"specs/{spec.name}")):
                command = (sys.executable, "-m", "engineforge", "plan", path)
                seconds = _run(command, folder, os.environ, "stale ", name)
                found.seconds.setdefault(name, []).append((number, *seconds))
        peak = _watched(folder, "plan", "specs")["peak"]
        found.memory_changed = (peak - found.bare) / found.variants
    finally:
        spec.write_text(text)


def _run(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], says: str, name: str
) -> tuple[float, float]:
    """Seconds, and seconds of processors."""
    with tempfile.TemporaryFile() as out:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        started = time.perf_counter()
        done = subprocess.run(
            command, cwd=folder, env=environment, stdout=out, stderr=subprocess.STDOUT, check=False
        )
        seconds = time.perf_counter() - started
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        out.seek(0)
        said = out.read().decode(errors="replace")
    if done.returncode != 0 or says not in said:
        raise SystemExit(f"{name} has something to do:\n{said[:3000]}")
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, used


def _look(found: Found, folder: Path) -> None:
    """What a no-op build opens, loads and takes of memory."""
    found.bare = _watched(folder)["peak"]
    watched = _watched(folder, "build", "specs")
    found.memory = (watched["peak"] - found.bare) / found.variants
    below = ("cache/", "specs/", str(folder / "cache"), str(folder / "specs"))
    found.opened = [path for path in watched["opened"] if path.startswith(below)]
    found.heavy = sorted(_PARSERS & set(watched["loaded"])) + watched["hashing"]


def _watched(folder: Path, *words: str) -> Any:  # noqa: ANN401 - any JSON
    """What a command, or a bare interpreter, did."""
    said = folder / "said"
    subprocess.run(
        [sys.executable, "-c", _WATCHED, str(said), *words],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    return json.loads(said.read_text())


def _table(found: Mapping[str, Found]) -> list[str]:
    names = {each: f"`engineforge {each}`" for each in ("build", "plan")}
    tools = [*names, *_OTHERS, _CHANGED, _ALONE]
    rows = [["variants", *(f"{each.variants:,}" for each in found.values())]]
    rows.append(["variants of a spec", *(size.partition("x")[2] for size in found)])
    rows.append(["files", *(f"{each.files:,}" for each in found.values())])
    for tool in tools:
        cells = [
            f"{each.median(tool):.3f} s" if tool in each.seconds else "" for each in found.values()
        ]
        rows.append([names.get(tool, tool), *cells])
    for tool in _OTHERS:
        cells = []
        for each in found.values():
            if tool not in each.seconds:
                cells.append("")
                continue
            used = each.ratio("build", tool, of_processors=True)
            found_ratio = each.ratio("build", tool)
            if tool == "ninja":
                cells.append(f"{found_ratio:.2f} ({used:.2f})")
            else:
                cells.append(f"1 / {1 / found_ratio:.1f} (1 / {1 / used:.1f})")
        rows.append([f"build over {tool} (processors)", *cells])
    rows.append(["bytes a variant", *(f"{each.memory:,.0f}" for each in found.values())])
    cells = [f"{each.memory_changed:,.0f}" for each in found.values()]
    rows.append([f"bytes a variant, {_CHANGED}", *cells])
    rows.append(["files opened", *(", ".join(each.opened) for each in found.values())])
    rows.append(["hashing, parsing", *(", ".join(each.heavy) or "none" for each in found.values())])
    rows.insert(1, ["---"] * len(rows[0]))
    return [f"| {' | '.join(row)} |" for row in rows]


def _plot(found: Mapping[str, Found], file: Path) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    shown: dict[int, Found] = {}
    for each in found.values():  # of each number of variants the first that was asked for
        shown.setdefault(each.variants, each)
    figure, axes = pyplot.subplots(figsize=(6, 3.2))
    for tool, name in (("build", "engineforge build"), *((each, each) for each in _OTHERS)):
        points = [(n, each.median(tool)) for n, each in shown.items() if tool in each.seconds]
        if points:
            style = "o-" if len(points) > 1 else "o"
            width = 2.5 if tool == "build" else 1.2
            axes.loglog(*zip(*points, strict=True), style, label=name, linewidth=width)
    axes.set(xlabel="variants, or targets of as many files", ylabel="seconds with nothing to do")
    axes.grid(visible=True, which="major", linewidth=0.3)
    axes.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    figure.savefig(file)


if __name__ == "__main__":
    main()
