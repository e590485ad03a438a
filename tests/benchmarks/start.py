"""What it costs to ask: `engineforge --help`, and `build specs` with nothing to build.

Both over `python -c pass`, in turns; printed is the median of the differences. The no-op runs on a
copy of this repository's specs, built first. It must open no spec, no model and no engine, hash
nothing, parse nothing, and load none of the modules that a build needs: an audit hook and
`sys.modules` say so, not EngineForge.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.measure import in_turns, quiet, spread, table, verdict
from tests.benchmarks.subjects import ENGINEFORGE

HELP = 0.080
_HEAVY = frozenset({"yaml", "jsonschema", "onnx", "numpy", "tensorrt_rtx", "rich", "packaging"})
_READ = (".yaml", ".onnx", ".engine", ".data")
_SPECS = Path(__file__).parents[2] / "specs"

# Runs the command and says, at its end, which files it opened and what it loaded.
_WATCHED = """
import json, sys
before, opened = set(sys.modules), []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
from engineforge.cli.main import main
sys.argv[0] = "engineforge"
said = sys.argv.pop(1)
try:
    main()
finally:
    loaded = sorted(set(sys.modules) - before)
    with open(said, "w") as file:
        json.dump({"opened": opened, "loaded": loaded}, file)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--folder", help="where the specs and their cache are copied to")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="engineforge-benchmark-") as made:
        specs = Path(made) / "specs"
        shutil.copytree(_SPECS, specs)
        build = [ENGINEFORGE, "build", str(specs)]
        quiet(build)
        quiet(build)  # remembers what was too new to trust in the first run
        _must_do_nothing(specs, Path(made) / "said")
        rows = [
            _row("engineforge --help", [ENGINEFORGE, "--help"], args.rounds, HELP),
            _row("engineforge build specs", build, args.rounds, None),
        ]
    print()
    table(["command", "python ms", "ms", "extra ms", "budget"], rows)


def _row(name: str, command: Sequence[str], rounds: int, budget: float | None) -> list[str]:
    bare = [sys.executable, "-c", "pass"]
    found = in_turns(lambda: _run(bare), lambda: _run(command), rounds)
    return [
        name,
        *(f"{1000 * statistics.median(each):.1f}" for each in (found.bare, found.ours)),
        spread([1000 * each for each in found.extra], "+.1f"),
        f"<= {1000 * budget:.0f}: {verdict(statistics.median(found.extra), budget)}"
        if budget
        else "-",
    ]


def _run(command: Sequence[str]) -> None:
    quiet(command)


def _must_do_nothing(specs: Path, said: Path) -> None:
    out = quiet([sys.executable, "-c", _WATCHED, str(said), "build", str(specs), "--json"])
    result, watched = json.loads(out), json.loads(said.read_text())
    loaded = watched["loaded"]
    outcomes = {each["outcome"] for each in result["variants"]}
    if outcomes != {"reused"}:
        raise SystemExit(f"no no-op: {outcomes}")
    heavy = sorted({name.partition(".")[0] for name in loaded} & _HEAVY)
    read = sorted({path for path in watched["opened"] if path.endswith(_READ)})
    print(f"a no-op build of {len(result['variants'])} variants loads {len(loaded)} modules:")
    print(f"  {' '.join(loaded)}")
    checks = {
        f"of {', '.join(sorted(_HEAVY))} it loads": heavy,
        f"of files that end in {', '.join(_READ)} it opens": read,
        "it says that it did": {name: n for name, n in result["effort"].items() if n},
    }
    for what, found in checks.items():
        print(f"{what}: {found or 'nothing'}")
    if any(checks.values()):
        raise SystemExit("a no-op build must do none of that")


if __name__ == "__main__":
    main()
