"""`import engineforge as ef`: specs from Python, by the same door as the command line's."""

from __future__ import annotations

import ast
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import engineforge as ef
from tests.conftest import Forge
from tests.models import convnet

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = sorted((ROOT / "specs" / "examples").glob("*.py"))
LABEL = "net/fp32@ada"
PRECISION = "needs python -m pip install 'engineforge[precision]'"
REMOTE = "needs python -m pip install 'engineforge[remote]'"


def test_nothing_is_read_before_a_plan_is_asked_for(forge: Forge) -> None:
    forge.spec("net", "this is no spec")
    assert ef.load_specs("specs").paths == (Path("specs"),)
    assert not forge.cache.exists()


def test_a_plan_says_what_is_stale_and_why(forge: Forge) -> None:
    plan = ef.load_specs("specs").plan()
    assert [each.label for each in plan.stale] == [LABEL]
    assert plan.explain() == f"{LABEL}: stale: never built here"


def test_a_plan_is_built_in_one_line(forge: Forge) -> None:
    results = ef.load_specs("specs").plan().build()
    assert isinstance(results[LABEL], ef.Built)
    assert list(results.engines) == [LABEL]
    assert results.engines[LABEL].is_file()
    assert results.exit_code == 0


def test_what_is_built_is_up_to_date_for_the_command_line(forge: Forge) -> None:
    ef.load_specs("specs").plan().build().or_raise()
    assert forge.build().outcomes() == {"fp32@ada": "reused"}
    assert "nothing to do" in forge.run("build", "specs").err


def test_what_the_command_line_built_is_up_to_date_here(built: Forge) -> None:
    plan = ef.load_specs("specs").plan()
    assert plan.stale == []
    assert plan.explain() == f"{LABEL}: up to date"
    assert isinstance(plan.build()[LABEL], ef.Reused)


def test_several_steps_may_share_what_they_opened(forge: Forge) -> None:
    with ef.load_specs("specs") as specs:
        first = specs.plan(to_build=True).build()
        second = specs.plan().build()
    assert isinstance(first[LABEL], ef.Built)
    assert isinstance(second[LABEL], ef.Reused)


def test_what_is_open_is_not_opened_twice(forge: Forge) -> None:
    with ef.load_specs("specs") as specs:
        with pytest.raises(RuntimeError, match="open already"):
            specs.__enter__()
        assert len(specs.plan().variants) == 1


def test_an_old_plan_builds_what_it_planned(forge: Forge) -> None:
    plan = ef.load_specs("specs").plan()
    plan.build().or_raise()
    assert isinstance(plan.build().or_raise()[LABEL], ef.Reused)


def test_a_plan_and_its_results_are_shown_in_a_few_words(built: Forge) -> None:
    plan = ef.load_specs("specs").plan()
    assert repr(plan) == "<Plan: 1 variants, 0 stale, 0 problems>"
    assert repr(plan.build()) == "<Results: 1 outcomes, 0 failed>"


def test_only_what_is_named_is_planned(forge: Forge) -> None:
    forge.edit("net", "targets: [ada]", "targets: [ada, ampere]")
    plan = ef.load_specs("specs").plan(targets=["ampere"])
    assert [each.label for each in plan.variants] == ["net/fp32@ampere"]
    with pytest.raises(ef.UsageError, match="no spec has a target 'amper'"):
        ef.load_specs("specs").plan(targets=["amper"])


def test_problems_stand_in_the_plan_and_stop_the_build(forge: Forge) -> None:
    forge.edit("net", "precision: fp32", "precision: fp33")
    plan = ef.load_specs("specs").plan()
    assert len(plan.problems) == 1
    with pytest.raises(ef.SpecError, match="fp33") as caught:
        plan.build()
    assert caught.value.problems == tuple(plan.problems)


def test_keep_going_builds_the_rest(forge: Forge) -> None:
    forge.spec("bad", "model: {}")
    results = ef.load_specs("specs").plan().build(keep_going=True)
    assert isinstance(results[LABEL], ef.Built)
    assert results.exit_code == ef.SpecError.exit_code
    with pytest.raises(ef.SpecError):
        results.or_raise()


def test_what_fails_is_an_outcome_and_an_error_when_asked(forge: Forge) -> None:
    forge.model.write_bytes(forge.model.read_bytes()[:-200])
    results = ef.load_specs("specs").plan().build(keep_going=True)
    with pytest.raises(ef.EngineForgeError):
        results.or_raise()


def test_check_raises_every_problem_of_every_file(forge: Forge) -> None:
    forge.spec("one", "model: {}")
    forge.spec("two", "variants: {}")
    with pytest.raises(ef.SpecError) as caught:
        ef.load_specs("specs").check()
    assert {Path(each.file).name for each in caught.value.problems} == {"one.yaml", "two.yaml"}


def test_check_gives_the_plan_where_all_is_sound(forge: Forge) -> None:
    assert [each.label for each in ef.load_specs("specs").check().variants] == [LABEL]


def test_a_missing_path_is_said_at_once(forge: Forge) -> None:
    with pytest.raises(ef.UsageError, match="'spec' does not exist"):
        ef.load_specs("spec")


def test_no_paths_at_all_are_said_to_be_none(forge: Forge) -> None:
    with pytest.raises(ef.UsageError, match="no specs are named"):
        ef.load_specs([])


def test_the_given_environment_stands_for_that_of_the_process(forge: Forge) -> None:
    environ = {**os.environ, "ENGINEFORGE_CACHE": "elsewhere"}
    results = ef.load_specs("specs", environ=environ).plan().build()
    assert results.engines[LABEL].parts[0] == "elsewhere"
    assert not forge.cache.exists()


def test_a_cache_that_is_named_goes_before_the_environments(forge: Forge) -> None:
    environ = {**os.environ, "ENGINEFORGE_CACHE": "elsewhere"}
    assert ef.load_specs("specs", cache="here", environ=environ).cache == Path("here")


def test_what_was_pushed_comes_from_the_store_that_machines_share(forge: Forge) -> None:
    pytest.importorskip("obstore", reason=REMOTE)
    (forge.root / "far").mkdir()
    first = ef.load_specs("specs", remote="far", push="always").plan().build()
    second = ef.load_specs("specs", remote="far", cache="other").plan().build()
    assert isinstance(first[LABEL], ef.Built)
    assert isinstance(second[LABEL], ef.Reused)


def test_a_plan_says_what_the_shared_store_has(forge: Forge) -> None:
    pytest.importorskip("obstore", reason=REMOTE)
    (forge.root / "far").mkdir()
    ef.load_specs("specs", remote="far", push="always").plan().build().or_raise()
    plan = ef.load_specs("specs", remote="far", cache="other").plan()
    assert "but elsewhere" in plan.elsewhere().explain()


def test_a_remote_store_that_is_a_part_of_the_cache_is_refused(forge: Forge) -> None:
    with pytest.raises(ef.UsageError, match="lie in each other"):
        ef.load_specs("specs", remote="cache/far").plan().build()


def test_a_cluster_needs_a_store_that_machines_share(forge: Forge) -> None:
    with pytest.raises(ef.UsageError, match="all machines share"):
        ef.load_specs("specs").plan().build(on="ray")


def test_events_are_told_as_they_come(forge: Forge) -> None:
    seen: list[ef.Event] = []
    ef.load_specs("specs").plan().build(observe=seen.append)
    assert {type(each).__name__ for each in seen} >= {"Started", "Finished"}


def test_what_matters_and_is_no_error_is_logged(
    built: Forge, caplog: pytest.LogCaptureFixture
) -> None:
    (engine,) = built.engines()
    manifest = engine.parent / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_text("{}")
    with caplog.at_level(logging.WARNING, logger="engineforge"):
        results = ef.load_specs("specs").plan(paranoid=True).build()
    assert isinstance(results[LABEL], ef.Built)
    assert "quarantine" in caplog.text
    assert results.faults


def test_accuracy_is_checked_from_a_plan_that_was_made_to_build(forge: Forge) -> None:
    pytest.importorskip("onnxruntime", reason=PRECISION)
    import numpy as np

    samples = np.random.default_rng(0).standard_normal((16, 3, 16, 16)).astype(np.float32)
    np.savez(forge.specs / "data.npz", image=samples)
    forge.edit("net", "fp32: {precision: fp32}", "fp16: {precision: fp16}")
    with (forge.specs / "net.yaml").open("a") as file:
        file.write("checks: {accuracy: {data: data.npz, max_relative_error: 1.0e-9}}\n")
    results = ef.load_specs("specs").plan().check("accuracy")
    assert isinstance(results["net/fp16@ada"], ef.Checked)
    assert set(results.failures) == {"net/fp16@ada"}
    with pytest.raises(ef.EngineForgeError, match="relative_error"):
        results.or_raise()


def test_an_engine_is_rebuilt_and_compared(built: Forge) -> None:
    results = ef.load_specs("specs").plan().rebuild()
    assert isinstance(results[LABEL], ef.Rebuilt)


def test_a_plan_for_a_toolchain_that_is_not_here_says_what_goes_stale(built: Forge) -> None:
    plan = ef.load_specs("specs").plan(versions={"tensorrt_rtx": "1.8.0.1"})
    assert "1.7.1.116 → 1.8.0.1" in plan.explain()


@pytest.mark.parametrize("versions", [{"tensorrt": "11"}, {"tensorflow": "2.16.1"}])
def test_a_toolchain_that_cannot_be_is_refused(forge: Forge, versions: dict[str, str]) -> None:
    with pytest.raises(ef.UsageError, match="expected a backend and a full version"):
        ef.load_specs("specs").plan(versions=versions)


def test_the_targets_are_told(forge: Forge) -> None:
    assert set(ef.load_specs("specs").targets()) == {"ada", "ampere"}


def test_specs_of_two_files_make_one_plan(forge: Forge) -> None:
    forge.spec("other", (forge.specs / "net.yaml").read_text().replace("net.onnx", "other.onnx"))
    convnet(forge.specs / "models" / "other.onnx", seed=1)
    specs = ef.load_specs(["specs/net.yaml", Path("specs/other.yaml")])
    assert {each.spec for each in specs.plan().variants} == {"net", "other"}


def test_importing_loads_nothing_but_the_name(tmp_path: Path) -> None:
    script = "import sys; before = set(sys.modules); import engineforge; "
    script += "print(*(set(sys.modules) - before))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) <= {"engineforge", "__future__"}


@pytest.mark.parametrize("name", [name for name in ef.__all__ if name != "__version__"])
def test_every_name_is_there_and_documented(name: str) -> None:
    found = getattr(ef, name)
    assert name in ("Outcome", "Event") or found.__doc__


def test_the_types_are_of_just_these_names() -> None:
    stub = ast.parse((ROOT / "engineforge" / "__init__.pyi").read_text())
    typed = {f"{each.asname}" for node in stub.body for each in getattr(node, "names", [])}
    assert {*typed, "__version__"} == set(ef.__all__)


def test_the_types_of_the_package_are_told() -> None:
    assert (ROOT / "engineforge" / "py.typed").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs(example: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason=PRECISION)
    shutil.copytree(ROOT / "specs", tmp_path / "specs")
    done = subprocess.run(
        [sys.executable, "-W", "error::SyntaxWarning", str(example)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "digits-convnet/fp16@rtx-ada: built in" in done.stdout
    assert "digits-convnet/fp16@rtx-ada passes" in done.stdout
