"""The files that run nights elsewhere: what they say is understood there, and here."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import yaml

from engineforge.cli.arguments import parser

ROOT = Path(__file__).parents[3]
WORKFLOWS = ROOT / ".github" / "workflows"
READY = ROOT / "specs" / "examples" / "nightly"
README = (ROOT / "specs" / "README.md").read_text()
SERVICE = READY / "engineforge-nightly.service"
TIMER = READY / "engineforge-nightly.timer"


def cron_job() -> dict[str, Any]:
    (text,) = (
        each
        for each in re.findall(r"```yaml\n(.*?)\n```", README, flags=re.DOTALL)
        if "kind: CronJob" in each
    )
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def _of_workflow() -> str:
    steps = yaml.safe_load((WORKFLOWS / "nightly.yml").read_text())["jobs"]["engines"]["steps"]
    (found,) = (s["run"] for s in steps if s.get("run", "").startswith("engineforge"))
    return str(found)


def _of_cron_job() -> str:
    template = cron_job()["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    return shlex.join(template["containers"][0]["command"])


def _of_service() -> str:
    return SERVICE.read_text().partition("ExecStart=")[2].splitlines()[0]


def _of_cron() -> str:
    last = (READY / "engineforge-nightly.cron").read_text().splitlines()[-1]
    fields = last.split(maxsplit=6)
    assert fields[5] == "engineforge"  # the user
    return fields[6].rpartition(" && ")[2]


COMMANDS = {
    "workflow": _of_workflow(),
    "cron job": _of_cron_job(),
    "service": _of_service(),
    "cron": _of_cron(),
    "README": re.findall(r"`(engineforge nightly [^`]+)`", README)[0],
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_their_commands_can_be_typed(command: str) -> None:
    program, *words = shlex.split(command)
    assert Path(program).name == "engineforge"
    args: Namespace = parser().parse_args(words)
    assert args.module == "engineforge.cli.nightly"
    assert (args.paths, args.output) == (["specs"], "nights")


@pytest.mark.parametrize("name", ["nightly.yml", "ci.yml"])
def test_workflows_are_what_github_takes(name: str) -> None:
    pytest.importorskip("check_jsonschema", reason="pip install 'check-jsonschema>=0.33'")
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows",
         str(WORKFLOWS / name)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["nightly.yml", "ci.yml"])
def test_workflows_may_only_read(name: str) -> None:
    assert yaml.safe_load((WORKFLOWS / name).read_text())["permissions"] == {"contents": "read"}


def test_the_workflow_leaves_what_a_failed_night_came_to() -> None:
    steps = yaml.safe_load((WORKFLOWS / "nightly.yml").read_text())["jobs"]["engines"]["steps"]
    uses = {each["uses"].partition("@")[0]: each for each in steps if "uses" in each}
    assert uses["actions/cache/save"]["if"] == "always()"
    assert uses["actions/upload-artifact"]["if"].startswith("always() && ")
    assert "actions/cache" not in uses


def test_the_workflow_shows_no_earlier_night_as_this_one() -> None:
    steps = yaml.safe_load((WORKFLOWS / "nightly.yml").read_text())["jobs"]["engines"]["steps"]
    (night,) = (each for each in steps if "engineforge nightly" in each.get("run", ""))
    (upload,) = (each for each in steps if "upload-artifact" in each.get("uses", ""))
    assert upload["if"].endswith(f"steps.{night['id']}.outcome != 'skipped'")


def test_the_workflow_leaves_no_token_to_code_of_specs() -> None:
    steps = yaml.safe_load((WORKFLOWS / "nightly.yml").read_text())["jobs"]["engines"]["steps"]
    (checkout,) = (each for each in steps if "actions/checkout" in each.get("uses", ""))
    assert checkout["with"]["persist-credentials"] is False


def test_ci_runs_what_has_to_be_green() -> None:
    steps = yaml.safe_load((WORKFLOWS / "ci.yml").read_text())["jobs"]["tests"]["steps"]
    assert steps[-1] == {"run": "bash .ci/run"}


def test_systemd_takes_the_service_and_its_timer(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("apt-get install systemd")
    # What it runs has to be there.
    program = _of_service().split()[0]
    text = SERVICE.read_text().replace(program, sys.executable)
    (tmp_path / SERVICE.name).write_text(text)
    shutil.copy(TIMER, tmp_path)
    units = [str(tmp_path / each.name) for each in (SERVICE, TIMER)]
    done = subprocess.run(
        ["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_kubernetes_takes_the_cron_job() -> None:
    validate = pytest.importorskip(
        "kubernetes_validate", reason="python -m pip install 'kubernetes-validate>=1.33'"
    )
    validate.validate(cron_job(), "1.33", strict=True)


def test_two_nights_of_kubernetes_are_never_at_once() -> None:
    found = cron_job()["spec"]
    assert found["concurrencyPolicy"] == "Forbid"
    assert found["jobTemplate"]["spec"]["backoffLimit"] == 0
