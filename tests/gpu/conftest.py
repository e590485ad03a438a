"""Real engines, built by the command line on this host's GPU; everything here skips without one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from engineforge.errors import HostUnfit
from engineforge.runtime.cuda import device_count

_HERE = str(Path(__file__).parents[2])


def tell(text: str) -> None:
    """A measured figure, for who runs these with `-s`."""
    sys.stderr.write(f"\n{text}\n")


def _why_not() -> str | None:
    try:
        device_count()
    except HostUnfit as error:
        return str(error)
    try:
        import tensorrt  # type: ignore[import-not-found, unused-ignore]  # noqa: F401
    except (ImportError, OSError) as error:
        return f"no classic TensorRT: {error}"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    why = _why_not() if here else None
    for item in here:
        if why is None:
            continue
        item.add_marker(pytest.mark.skip(reason=why))


# Neither cuBLAS nor cuDNN: TensorRT alone. No TF32: compared with ONNX Runtime in FP32.
_SPEC = """\
model: {{source: {{path: models/{name}.onnx}}}}
targets: [here]
variants: {{fp32: {{precision: fp32}}}}
builder: {{tf32: false, tactic_sources: [edge_mask_convolutions, jit_convolutions]}}
"""


@dataclass(frozen=True)
class Bench:
    """A project in a folder, whose one target is this host's GPU."""

    root: Path

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "engineforge", *arguments],
            cwd=self.root,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([_HERE, *filter(None, sys.path)])},
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def model(self, name: str) -> Path:
        return self.root / "specs" / "models" / f"{name}.onnx"

    def build(self, name: str, spec: str) -> Path:
        """The entry folder of the one engine of a spec, which adds its inputs to what all have."""
        specs = self.root / "specs"
        (specs / f"{name}.yaml").write_text(_SPEC.format(name=name) + spec)
        outcome: dict[str, Any] = json.loads(self.run("build", f"specs/{name}.yaml", "--json"))
        (variant,) = outcome["variants"]
        assert variant["outcome"] in ("built", "reused"), outcome
        shown = json.loads(self.run("show", f"specs/{name}.yaml", "--json"))
        return Path(self.root / shown[0]["path"])


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    made = Bench(tmp_path_factory.mktemp("bench"))
    (made.root / "specs" / "models").mkdir(parents=True)
    found = json.loads(made.run("target", "detect", "--json"))
    classic = [block for block in found.values() if block["backend"] == "tensorrt"]
    # JSON is YAML.
    (made.root / "specs" / "targets.yaml").write_text(json.dumps({"here": classic[0]}))
    return made
