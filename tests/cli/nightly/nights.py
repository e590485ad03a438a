"""Whole nights on a project of one's own, and what is read of what they leave."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from engineforge.report import events
from tests.conftest import SPEC, Forge, Result

junitparser = pytest.importorskip("junitparser", reason="python -m pip install 'junitparser>=4'")

ENVIRONMENTS = """\
dev:
  store: ../envs/dev
  signers: {ci: keys/ci.pub}
  gates: {freshness: {}, provenance: {}}
production:
  store: ../envs/production
  from: dev
  signers: {ci: keys/ci.pub}
  gates: {freshness: {}}
"""
_CHECK = "checks: {accuracy: {data: seen.npz, max_relative_error: %s}}\n"
KEY = ("--key", "specs/keys/ci.key")
_EVENTS = ("started", "waiting", "noted", "finished", "night", "step", "case", "serving", "ended")


def spec(name: str, *, accuracy: str | None = None) -> str:
    text = SPEC.replace("net.onnx", f"{name}.onnx")
    if accuracy is None:
        return text
    return text.replace("fp32: {precision: fp32}", "fp16: {precision: fp16}") + _CHECK % accuracy


def night(forge: Forge, *args: str) -> Result:
    return forge.run("nightly", "specs", "-o", "nights", *KEY, *args)


def left(forge: Forge, name: str = "latest") -> Path:
    return forge.root / "nights" / name


def cases(forge: Forge) -> dict[tuple[str, str], str]:
    """Of junit.xml as junitparser reads it: suite and case, and what they came to."""
    whole = junitparser.JUnitXml.fromfile(str(left(forge) / "junit.xml"))
    return {
        (suite.name, case.name): type(case.result[0]).__name__ if case.result else "Passed"
        for suite in whole
        for case in suite
    }


def log(folder: Path) -> list[dict[str, Any]]:
    """The events of a night, each of which the published schema knows and takes."""
    found = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    validator = Draft202012Validator(events.schema())
    for each in found:
        validator.validate(each)
        assert each["event"] in _EVENTS
    return found


def in_dev(forge: Forge) -> dict[str, int | None]:
    found = forge.run("status", "specs", "--json").json["cells"]
    return {each["spec"]: each["number"] for each in found if each["environment"] == "dev"}


class Kept:
    """Nights that several tests look at."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._results = folder, dict[str, Result]()

    def night(self, forge: Forge, name: str, *args: str) -> Result:
        if name not in self._results:
            self._results[name] = night(forge, *args)
            shutil.copytree(forge.root, self._folder / name, symlinks=True)
        else:
            shutil.rmtree(forge.root)
            shutil.copytree(self._folder / name, forge.root, symlinks=True)
            os.chdir(forge.root)
        return self._results[name]


def process(forge: Forge, *args: str, environment: Mapping[str, str] = os.environ) -> Any:  # noqa: ANN401
    return subprocess.Popen(
        [sys.executable, "-m", "engineforge", "nightly", "specs", "-o", "nights", *KEY, *args],
        cwd=forge.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


class Posts(list[dict[str, Any]]):
    url = ""
