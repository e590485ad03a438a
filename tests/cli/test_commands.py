"""What each command says, and with which exit code it ends."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from engineforge.digest import digest_file
from tests.conftest import CLASSIC, SPEC, TARGETS, Forge


def test_check_counts_what_is_sound(forge: Forge) -> None:
    result = forge.run("check", "specs")
    assert (result.code, result.out) == (0, "sound: 1 spec with 1 variant\n")


def test_check_as_json_has_every_problem_with_its_place(forge: Forge) -> None:
    forge.edit("net", "precision", "precison")
    result = forge.run("check", "specs", "--json")
    assert result.code == 2
    (problem,) = result.json["problems"]
    assert problem["file"] == "specs/net.yaml"
    assert problem["hint"] == "did you mean 'precision'?"


def test_plan_says_why_and_builds_nothing(forge: Forge) -> None:
    result = forge.run("plan", "specs")
    assert result.code == 0
    assert result.out.startswith("stale       net/fp32@ada  never built here; runs onnx → engine")
    assert not forge.engines()


def test_plan_explains_each_leaf(built: Forge) -> None:
    built.edit("net", "max: [8, 3", "max: [9, 3")
    built.edit("net", "targets: [ada]", "targets: [ada]\nbuilder: {tf32: false}")
    out = built.run("plan", "specs", "--explain").out
    assert "builder.tf32 true → false" in out
    assert "profiles[0].image.shape.max[0] 8 → 9" in out


def test_plan_with_a_version_needs_a_backend(forge: Forge) -> None:
    result = forge.run("plan", "specs", "--with", "cuda=13")
    assert result.code == 2
    assert "expected a backend and a full version" in result.err


def test_a_dry_run_builds_nothing(forge: Forge) -> None:
    assert forge.run("build", "specs", "--dry-run").code == 0
    assert not forge.engines()


def test_selectors_choose_variants_and_targets(forge: Forge) -> None:
    forge.edit("net", "targets: [ada]", "targets: [ada, ampere]")
    forge.edit("net", "  fp32: {", "  other: {}\n  fp32: {")
    result = forge.build("--variant", "fp32", "--target", "ampere")
    assert result.outcomes() == {"fp32@ampere": "built"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--variant", "fp23"], "did you mean 'fp32'?"),
        (["--target", "adda"], "did you mean 'ada'?"),
    ],
)
def test_a_selector_that_selects_nothing_is_an_error(
    forge: Forge, arguments: list[str], said: str
) -> None:
    result = forge.run("build", "specs", *arguments)
    assert result.code == 2
    assert said in result.err


def test_a_folder_without_targets_says_what_it_needs(forge: Forge) -> None:
    (forge.specs / "targets.yaml").unlink()
    result = forge.run("build", "specs")
    assert result.code == 2
    assert "no 'targets.yaml' in 'specs' or above" in result.err


def test_a_bad_spec_stops_everything_unless_told_to_keep_going(forge: Forge) -> None:
    forge.spec("bad", "model: {}\n")
    result = forge.build()
    assert result.code == 2
    assert not forge.engines()
    result = forge.build("--keep-going")
    assert result.code == 2
    assert result.outcomes() == {"fp32@ada": "built"}
    assert "specs/bad.yaml:1:1: model: expected the key 'source'" in result.err


@pytest.mark.parametrize("damage", ["truncated", "empty", "noise", "missing"])
def test_a_broken_model_is_an_error_of_its_spec_and_the_rest_is_built(
    forge: Forge, damage: str
) -> None:
    bad = forge.model.with_name("bad.onnx")
    whole = forge.model.read_bytes()
    match damage:
        case "truncated":
            bad.write_bytes(whole[: len(whole) // 2])
        case "empty":
            bad.touch()
        case "noise":
            bad.write_bytes(bytes(range(256)) * 10)
    forge.spec("bad", SPEC.replace("net.onnx", "bad.onnx"))
    result = forge.build("--keep-going")
    assert result.code == 2
    assert result.outcomes() == {"fp32@ada": "built"}
    assert "specs/bad.yaml:2:12: model.source.path: 'bad.onnx'" in result.err.replace(
        "'models/bad.onnx'", "'bad.onnx'"
    )


def test_a_classic_target_is_planned_and_skipped_with_the_reason(forge: Forge) -> None:
    forge.spec("targets", TARGETS + CLASSIC)
    forge.edit("net", "[ada]", "[ada, h200]")
    result = forge.build()
    assert result.code == 0
    assert result.outcomes() == {"fp32@ada": "built", "fp32@h200": "skipped"}
    assert "classic TensorRT" in result.json["variants"][1]["why"]


def test_a_host_that_can_build_nothing_of_it_is_unfit(forge: Forge) -> None:
    forge.spec("targets", CLASSIC)
    forge.edit("net", "[ada]", "[h200]")
    assert forge.build().code == 5


def test_a_target_that_pins_another_version_is_skipped_with_the_difference(forge: Forge) -> None:
    forge.spec("targets", TARGETS.replace("1.7.1.116", "1.6.1.120"))
    result = forge.run("build", "specs")
    assert result.code == 5
    assert "the target pins tensorrt_rtx 1.6.1.120" in result.out
    assert "this host has tensorrt_rtx 1.7.1.116" in result.out


def test_show_says_what_an_engine_of_a_spec_is(built: Forge) -> None:
    out = built.run("show", "specs/net.yaml").out
    assert out.startswith("net/fp32@ada\n")
    for fact in ("tensorrt_rtx 1.7.1.116", "[1, 3, 16, 16] ≤ [4, 3, 16, 16]", "tf32 = True"):
        assert fact in out


@pytest.mark.parametrize("named", ["net/fp32@ada", "net:fp32@ada"])
def test_show_takes_the_label_of_a_variant(forge: Forge, named: str) -> None:
    forge.edit("net", "targets: [ada]", "targets: [ada, ampere]")
    forge.build()
    (shown,) = forge.run("show", named, "--json").json
    assert (shown["variant"], shown["target"]) == ("fp32", "ada")
    (forge.specs).rename(forge.root / "others")
    assert forge.run("show", named).code == 2
    assert forge.run("show", named, "--specs", "others").out.startswith("net/fp32@ada\n")


def test_show_of_a_label_that_there_is_not_says_which_there_are(built: Forge) -> None:
    result = built.run("show", "net/fp16@ada")
    assert result.code == 2
    assert "no spec has a variant 'fp16'\nhint: there is: fp32" in result.err
    result = built.run("show", "net/fp32@ada", "--variant", "fp32")
    assert result.code == 2
    assert "leave out the selectors" in result.err
    built.edit("net", "max: [8, 3", "max: [9, 3")
    result = built.run("show", "net/fp32@ada", "--json")
    assert (result.code, result.out) == (1, "")
    assert "net/fp32@ada is not built, or not up to date" in result.err
    result = built.run("show", "nett/fp32@ada")
    assert result.code == 2
    assert "there is no 'specs/nett.yaml'" in result.err


def test_show_knows_an_engine_file_wherever_it_is_and_whatever_it_is_called(
    built: Forge, tmp_path: Path
) -> None:
    stray = tmp_path / "deployed" / "final_v2_really.plan"
    stray.parent.mkdir()
    shutil.copy(built.engines()[0], stray)
    assert built.run("show", stray).out.startswith("net/fp32@ada\n")


def test_show_does_not_know_a_file_that_was_not_built_here(built: Forge, tmp_path: Path) -> None:
    stray = tmp_path / "stray.engine"
    stray.write_bytes(built.engines()[0].read_bytes()[:-1] + b"x")
    result = built.run("show", stray)
    assert result.code == 1
    assert digest_file(stray) in result.err


def test_show_finds_by_digits_of_engine_key_plan_key_and_file_digest(built: Forge) -> None:
    (planned,) = built.plan()
    engine = built.engines()[0]
    for digits in (
        planned["engine"].removeprefix("sha256:")[:8],
        planned["plan"].removeprefix("sha256:")[:8],
        digest_file(engine).hex[:8],
    ):
        (entry,) = built.run("show", digits, "--json").json
        assert entry["key"] == planned["engine"]


@pytest.mark.parametrize(
    ("what", "said"), [("0000dead", "nothing in"), ("ab", "at least 4"), ("what", "no spec")]
)
def test_show_says_what_it_cannot_find(built: Forge, what: str, said: str) -> None:
    result = built.run("show", what)
    assert result.code == 2
    assert said in result.err


def test_show_names_what_is_stale(built: Forge) -> None:
    built.edit("net", "max: [8, 3", "max: [9, 3")
    result = built.run("show", "specs")
    assert result.out == ""
    assert "net/fp32@ada: stale" in result.err


def test_verify_hashes_all_and_fails_on_what_changed(built: Forge) -> None:
    assert built.run("verify").out == "2 entries hashed, 0 corrupt\n"
    engine = built.engines()[0]
    engine.chmod(0o644)
    data = bytearray(engine.read_bytes())
    data[len(data) // 2] ^= 1
    engine.write_bytes(data)
    result = built.run("verify")
    assert result.code == 4
    assert "quarantine" in result.err
    assert built.build().outcomes() == {"fp32@ada": "built"}


def test_the_schema_is_a_valid_schema_that_this_spec_fits(forge: Forge) -> None:
    import yaml

    for kind, file in (("spec", "net.yaml"), ("targets", "targets.yaml")):
        schema = forge.run("schema", kind).json
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.validate(yaml.safe_load((forge.specs / file).read_text()), schema)


def test_target_detect_prints_a_block_that_can_be_used(forge: Forge) -> None:
    block = forge.run("target", "detect").out
    forge.spec("targets", block)
    forge.edit("net", "[ada]", f"[{block.partition(':')[0]}]")
    assert forge.run("check", "specs").code == 0


def test_target_lists_what_can_be_built_here(forge: Forge) -> None:
    forge.spec("targets", TARGETS + CLASSIC)
    out = forge.run("target").out
    assert "can be built here" in out
    assert "not built here" in out


def test_doctor_says_what_this_host_can_build_and_why_not_the_rest(forge: Forge) -> None:
    forge.spec("targets", TARGETS + CLASSIC)
    result = forge.run("doctor", "--json")
    assert result.code == 0
    assert result.json["backends"]["tensorrt_rtx"] == ["tensorrt_rtx 1.7.1.116 (CUDA 13)"]
    assert result.json["targets"]["ada"] is None
    assert "classic TensorRT" in result.json["targets"]["h200"]
    assert result.json["unknown_settings"] == []


def test_the_cache_can_be_elsewhere(forge: Forge, tmp_path: Path) -> None:
    assert forge.build("--cache", tmp_path / "other").code == 0
    assert not forge.engines()
    assert list((tmp_path / "other").glob("entries-v1/engine/*/*/model.engine"))


def test_data_goes_to_stdout_and_the_rest_to_stderr(forge: Forge) -> None:
    result = forge.run("build", "specs")
    (line,) = result.out.splitlines()
    assert line.startswith("net/fp32@ada  built in ")
    assert "1 variant: 1 built, 0 reused" in result.err


def test_json_stays_json_when_builds_fail(forge: Forge) -> None:
    forge.edit("net", "{precision: fp32}", "{builder: {workspace: 1B}}")
    result = forge.build()
    assert result.code == 1
    assert json.loads(result.out)["variants"][0]["outcome"] == "failed"


def test_plugin_libraries_are_keyed_by_content(forge: Forge) -> None:
    forge.spec("targets", CLASSIC)
    forge.edit("net", "[ada]", "[h200]\nbuilder: {tensorrt: {plugins: [libfoo.so]}}")
    assert "the plugin library 'libfoo.so' does not exist" in forge.run("check", "specs").err
    (forge.specs / "libfoo.so").write_bytes(b"one")
    (before,) = forge.plan()
    (forge.specs / "libfoo.so").rename(forge.specs / "libbar.so")
    forge.edit("net", "libfoo", "libbar")
    (renamed,) = forge.plan()
    assert renamed["plan"] == before["plan"]
    (forge.specs / "libbar.so").write_bytes(b"two")
    (changed,) = forge.plan()
    assert changed["plan"] != before["plan"]


def test_verify_needs_a_cache_and_sound_specs(forge: Forge) -> None:
    result = forge.run("verify", "--cache", "nowhere")
    assert result.code == 2
    assert "there is no cache at 'nowhere'" in result.err
    forge.edit("net", "precision", "precison")
    assert forge.run("verify", "specs").code == 2


def test_verify_of_specs_hashes_the_entries_of_all_their_stages(built: Forge) -> None:
    assert built.run("verify", "specs").out == "2 entries hashed, 0 corrupt\n"


def test_a_reader_that_goes_away_is_not_success(forge: Forge) -> None:
    done = subprocess.run(
        [
            "bash",
            "-c",
            f"{sys.executable} -m engineforge build specs | true; exit ${{PIPESTATUS[0]}}",
        ],
        cwd=forge.root,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 141
    assert forge.engines(), "the build itself goes on"


def test_a_cache_that_is_a_file_is_said_to_be_unwritable(forge: Forge) -> None:
    (forge.root / "file").touch()
    assert forge.run("plan", "specs", "--cache", "file").code == 0
    result = forge.run("build", "specs", "--cache", "file")
    assert result.code == 5
    assert "the cache 'file' cannot be written" in result.err


def test_a_full_output_is_no_traceback(forge: Forge) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "engineforge", "plan", "specs"],
            cwd=forge.root,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 5
    assert "Traceback" not in done.stderr


def test_a_spec_named_in_two_ways_is_planned_once(forge: Forge) -> None:
    result = forge.run("plan", "specs", "specs/../specs/net.yaml", "--json")
    assert [variant["spec"] for variant in result.json["variants"]] == ["net"]


def test_two_specs_of_one_name_are_a_problem(forge: Forge) -> None:
    (forge.specs / "net.yml").write_text(SPEC)
    result = forge.run("check", "specs")
    assert result.code == 2
    assert "specs/net.yml: 'specs/net.yaml' has the same name, 'net'" in result.err


def test_a_dangling_spec_is_a_problem(forge: Forge) -> None:
    (forge.specs / "gone.yaml").symlink_to("nowhere.yaml")
    result = forge.run("check", "specs")
    assert result.code == 2
    assert "specs/gone.yaml: cannot be read: No such file" in result.err


def test_a_folder_that_leads_back_is_not_followed(forge: Forge) -> None:
    (forge.specs / "loop").symlink_to(".")
    assert len(forge.plan()) == 1


def test_a_git_lfs_pointer_is_recognized(forge: Forge) -> None:
    forge.model.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert "is a Git LFS pointer, not the model\nhint: git lfs pull" in forge.run("check").err


def test_a_spec_for_several_hosts_is_a_no_op_on_each(forge: Forge) -> None:
    forge.spec("targets", TARGETS + CLASSIC)
    forge.edit("net", "[ada]", "[ada, h200]")
    forge.build()
    again = forge.build()
    assert again.outcomes() == {"fp32@ada": "reused", "fp32@h200": "skipped"}
    assert again.json["effort"] == {"files_hashed": 0, "bytes_hashed": 0, "specs_parsed": 0}
