"""How well many builds use the processors: `python -m tests.benchmarks.parallel [BUILDS]`.

The same plan at one, two and four at once, with and without durations of an earlier run; each wall
time over the sum of its build times by what runs at once. 1 is all that can be had.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.conftest import TARGETS
from tests.models import elementwise

_SPEC = """\
model:
  source: {{path: models/{name}.onnx}}
inputs:
  x: {{min: [1, 64], opt: [4, 64], max: [8, 64]}}
targets: [ada]
variants:
"""
_VARIANTS = 4
_LONGEST = 1200


def _project(root: Path, builds: int) -> None:
    """Chains of very different lengths, the longest ones last by name."""
    (root / "specs" / "models").mkdir(parents=True)
    (root / "specs" / "targets.yaml").write_text(TARGETS)
    specs = max(1, builds // _VARIANTS)
    for number in range(specs):
        name = f"chain-{number:03}"
        length = 5 + number + round(_LONGEST * ((number + 1) / specs) ** 3)
        model = root / "specs" / "models" / f"{name}.onnx"
        elementwise(model, inputs=[("x", ("batch", 64))], length=length)
        variants = (
            f"  v{each}: {{precision: fp32, builder: {{max_aux_streams: {each}}}}}\n"
            for each in range(_VARIANTS)
        )
        (root / "specs" / f"{name}.yaml").write_text(_SPEC.format(name=name) + "".join(variants))


def _built(root: Path, at_once: int) -> tuple[float, float]:
    """Seconds of the whole command, and those of its builds."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "engineforge", "build", "specs", "--json", "-j", str(at_once)],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    wall = time.monotonic() - began
    return wall, sum(each["seconds"] for each in json.loads(done.stdout)["variants"])


def main(builds: int = 64) -> None:
    print(f"{builds} builds; seconds of the command, of its builds, and over what could be had")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _project(root, builds)
        for known in (False, True):
            for at_once in (1, 2, 4):
                for part in ("entries-v1", "plans-v1"):
                    shutil.rmtree(root / "cache" / part, ignore_errors=True)
                if not known:
                    shutil.rmtree(root / "cache", ignore_errors=True)
                wall, building = _built(root, at_once)
                over = wall / (building / at_once)
                name = "known" if known else "new"
                print(f"{name:6} -j {at_once}  {wall:7.1f}  {building:7.1f}  {over:.2f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
