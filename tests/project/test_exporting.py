"""Specs with models exported from PyTorch: what makes them stale, and what rebuilds nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from engineforge.digest import Digest
from engineforge.project.plans import Selection
from engineforge.project.project import Project
from engineforge.store.index import History, Index
from engineforge.store.uses import Ref
from engineforge.worker.outcome import Built
from tests.conftest import TARGETS, Forge, conditions
from tests.models import convnet

pytest.importorskip("torch", reason="python -m pip install 'engineforge[pytorch]'")
pytest.importorskip("onnxscript", reason="python -m pip install 'engineforge[pytorch]'")

_NETS = """\
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, padding=1)
        self.head = nn.Linear(width, 10)

    def forward(self, image):
        return self.head(torch.relu(self.conv(image)).mean((2, 3)))


def make(width=8):
    torch.manual_seed(0)
    return Net(width)
"""
_SPEC = """\
model:
  source: {pytorch: {module: 'nets:make', outputs: [logits]}}
inputs:
  image: {min: [1, 3, 16, 16], opt: [4, 3, 16, 16], max: [8, 3, 16, 16]}
targets: [ada]
variants:
  fp32: {precision: fp32}
"""
_BUILT, _REUSED = {"fp32@ada": "built"}, {"fp32@ada": "reused"}


def of_pytorch(forge: Forge) -> Forge:
    forge.spec("net", _SPEC)
    (forge.specs / "nets.py").write_text(_NETS)
    return forge


@pytest.fixture
def torch_forge(forge: Forge) -> Forge:
    """A project whose one model is a module of PyTorch."""
    forge.model.unlink()
    return of_pytorch(forge)


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with what that module is exported to: of this each test would take seconds."""
    forge = of_pytorch(Forge(tmp_path_factory.mktemp("export")))
    forge.spec("targets", TARGETS)
    return forge.made("build", "specs", "--prepare")


@pytest.fixture
def project(torch_forge: Forge, export: Path) -> Forge:
    """The same, with the export in the cache; nothing was planned or built."""
    torch_forge.seed(export)
    return torch_forge


def entries(forge: Forge, stage: str) -> Sequence[Path]:
    return sorted(forge.cache.glob(f"entries-v1/{stage}/*/*"))


def edit(forge: Forge, old: str, new: str) -> None:
    path = forge.specs / "nets.py"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_module_becomes_an_engine_and_then_is_up_to_date(torch_forge: Forge) -> None:
    first = torch_forge.build()
    assert first.outcomes() == _BUILT, first.err
    (exported,) = entries(torch_forge, "source")
    assert (exported / "export.log").is_file()
    second = torch_forge.build()
    assert second.outcomes() == _REUSED
    assert second.json["effort"] == {"files_hashed": 0, "bytes_hashed": 0, "specs_parsed": 0}


def test_a_module_without_weights_is_built_and_that_is_said(torch_forge: Forge) -> None:
    said = "'nets:make' draws its parameters at random, and no 'weights' are given"
    assert said in torch_forge.run("build", "specs").err


def test_a_file_that_the_function_opens_and_nobody_names_is_refused(torch_forge: Forge) -> None:
    (torch_forge.specs / "width.txt").write_text("8")
    read = "    width = int(open(__file__.replace('nets.py', 'width.txt')).read())\n"
    edit(torch_forge, "    torch.manual_seed(0)\n", read + "    torch.manual_seed(0)\n")
    (variant,) = torch_forge.build().json["variants"]
    assert "'width.txt' was read, and a change of that would go unseen" in variant["error"]
    torch_forge.edit("net", "outputs:", "files: [width.txt], outputs:")
    result = torch_forge.build()
    assert result.outcomes() == _BUILT, result.err


def test_outputs_that_make_no_sound_model_are_told_and_nothing_is_kept(torch_forge: Forge) -> None:
    torch_forge.edit("net", "outputs: [logits]", "outputs: [image]")
    (variant,) = torch_forge.build().json["variants"]
    assert variant["outcome"] == "failed"
    assert "PyTorch model 'nets:make'" in variant["error"]
    assert "model.onnx" not in variant["error"]
    assert not entries(torch_forge, "source")


def test_before_it_is_exported_a_plan_says_so_and_does_nothing(torch_forge: Forge) -> None:
    (variant,) = torch_forge.plan()
    assert variant["state"] == "stale"
    assert variant["reasons"] == [
        {
            "kind": "source-unmade",
            "source": "PyTorch model 'nets:make'",
            "first": "exported",
            "changes": [],
        }
    ]
    assert variant["stages"] == ["source", "onnx", "engine"]
    assert not entries(torch_forge, "source")


def test_an_edit_of_the_module_makes_it_stale_and_is_named(project: Forge) -> None:
    project.build()
    edit(project, "8):", "16):")
    assert project.changes() == {"fp32@ada": ["'nets.py'"]}
    assert project.build().outcomes() == _BUILT


def test_an_edit_that_exports_the_same_graph_rebuilds_nothing(project: Forge) -> None:
    project.build()
    edit(project, "def make", "# the network of the paper\ndef make")
    assert project.changes() == {"fp32@ada": ["'nets.py'"]}
    assert project.build().outcomes() == _REUSED
    assert len(entries(project, "source")) == 2
    assert len(entries(project, "engine")) == 1


def test_an_edit_of_another_file_changes_nothing(project: Forge) -> None:
    project.build()
    (project.specs / "notes.py").write_text("x = 1\n")
    assert project.changes() == {}


def test_another_range_of_batches_builds_anew_and_exports_nothing(project: Forge) -> None:
    project.build()
    project.edit("net", "max: [8,", "max: [32,")
    assert project.build().outcomes() == _BUILT
    assert len(entries(project, "source")) == 1


def test_an_argument_of_the_function_is_in_the_key(project: Forge) -> None:
    project.build()
    project.edit("net", "outputs:", "arguments: {width: 12}, outputs:")
    assert project.build().outcomes() == _BUILT
    assert len(entries(project, "source")) == 2


def test_a_function_that_raises_fails_its_variants_and_keeps_nothing(torch_forge: Forge) -> None:
    edit(torch_forge, "    torch.manual_seed(0)", "    raise ValueError('no such width')")
    result = torch_forge.build()
    assert (result.code, result.outcomes()) == (1, {"fp32@ada": "failed"})
    (variant,) = result.json["variants"]
    assert variant["stage"] == "source"
    assert "no such width" in variant["error"]
    assert "nets.py:16" in variant["error"]
    assert not entries(torch_forge, "source")


def test_what_the_spec_asks_of_the_exported_model_is_checked_then(torch_forge: Forge) -> None:
    torch_forge.edit("net", "{precision: fp32}", "{precision: fp16, keep_fp32: [/no/such/node]}")
    assert torch_forge.run("check", "specs").code == 0
    result = torch_forge.run("build", "specs")
    assert result.code == 2
    assert "no node that '/no/such/node' means" in result.err


def test_a_cache_that_lost_the_export_alone_makes_it_again_for_a_stale_plan(
    project: Forge,
) -> None:
    project.build()
    project.edit("net", "max: [8,", "max: [32,")
    (exported,) = entries(project, "source")
    exported.rename(project.root / "lost")
    assert project.build().outcomes() == _BUILT


def test_gc_keeps_what_the_current_plan_was_exported_to(project: Forge) -> None:
    project.build()
    kept = entries(project, "source")
    assert project.run("gc", "specs", "--older-than", "0s").code == 0
    assert entries(project, "source") == kept
    assert project.build().outcomes() == _REUSED


def test_two_specs_of_one_module_export_it_once(torch_forge: Forge) -> None:
    torch_forge.spec("twin", _SPEC.replace("fp32:", "too:"))
    result = torch_forge.build("-j", "2")
    assert set(result.outcomes().values()) <= {"built", "reused"}
    assert len(entries(torch_forge, "source")) == 1


def test_an_accuracy_check_of_a_model_that_cannot_be_exported_fails(torch_forge: Forge) -> None:
    edit(torch_forge, "    torch.manual_seed(0)", "    raise ValueError('no such width')")
    torch_forge.edit(
        "net", "variants:", "checks: {accuracy: {data: x.npz, max_relative_error: 0.1}}\nvariants:"
    )
    result = torch_forge.run("check", "specs", "--accuracy")
    assert result.code == 1
    assert "no such width" in result.err


def test_the_rest_is_built_where_one_model_cannot_be_exported(project: Forge) -> None:
    project.spec("other", _SPEC.replace("nets:make", "bad:make").replace("fp32:", "bad:"))
    (project.specs / "bad.py").write_text("def make():\n    return 1 / 0\n")
    stopped = project.build()
    assert (stopped.code, stopped.outcomes()) == (1, {"fp32@ada": "skipped", "bad@ada": "failed"})
    went_on = project.build("--keep-going")
    assert (went_on.code, went_on.outcomes()) == (1, {"fp32@ada": "built", "bad@ada": "failed"})


def test_why_an_export_failed_is_said_beside_the_problems_of_others(torch_forge: Forge) -> None:
    torch_forge.spec("other", _SPEC.replace("nets:make", "bad:make").replace("fp32:", "bad:"))
    (torch_forge.specs / "bad.py").write_text("def make():\n    return 1 / 0\n")
    torch_forge.edit("net", "{precision: fp32}", "{precision: fp16, keep_fp32: [/no/such/node]}")
    result = torch_forge.run("build", "specs")
    assert result.code == 2
    assert "ZeroDivisionError" in result.err
    assert "/no/such/node" in result.err


def test_an_export_that_is_collected_between_planning_and_building_is_taken_back(
    project: Forge,
) -> None:
    project.run("build", "specs", "--prepare")
    (exported,) = entries(project, "source")
    with Project(project.specs, project.cache, os.environ) as opened:
        plan = opened.plan([project.specs], Selection())
        trash = Ref("source", Digest(f"sha256:{exported.name}")).trash(project.cache)
        trash.parent.mkdir(parents=True)
        exported.rename(trash)
        (outcome,) = opened.build(plan, conditions())
    assert isinstance(outcome, Built), outcome
    assert entries(project, "source") == [exported]


def test_a_model_that_changes_while_it_is_planned_is_not_remembered_as_the_new_one(
    forge: Forge,
) -> None:
    class Meanwhile(Index):
        """Something writes the model once it was hashed, and before the plan is remembered."""

        def history(self, label: str) -> History | None:
            convnet(forge.model, channels=24)
            return super().history(label)

    forge.build()
    forge.edit("net", "max: [8,", "max: [16,")
    with Project(forge.specs, forge.cache, os.environ) as project:
        project.index = Meanwhile(forge.cache)
        plan = project.plan([forge.specs], Selection())
        (outcome,) = project.build(plan, conditions())
    changed = forge.changes()
    assert "model 'net.onnx'" in changed["fp32@ada"], (outcome, changed)
