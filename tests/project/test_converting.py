"""Converted variants from the command line: what makes one stale, what is shared, what refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.conftest import Forge

Images = npt.NDArray[np.float32]
pytest.importorskip("onnxruntime", reason="needs: python -m pip install 'engineforge[precision]'")

SPEC = """\
model:
  source: {path: models/net.onnx}
inputs:
  image: {min: [1, 3, 16, 16], opt: [4, 3, 16, 16], max: [8, 3, 16, 16]}
targets: [ada]
calibration: {data: data}
checks:
  accuracy: {data: holdout.npz, max_relative_error: 0.1}
variants:
  fp32: {precision: fp32}
  fp16: {precision: fp16}
  int8: {precision: int8}
"""


def images(seed: int, count: int = 8) -> Images:
    return np.random.default_rng(seed).standard_normal((count, 3, 16, 16)).astype(np.float32)


def _converting(forge: Forge) -> Forge:
    forge.spec("net", SPEC)
    (forge.specs / "data").mkdir()
    for name, seed in (("a", 1), ("b", 2)):
        np.savez(forge.specs / "data" / f"{name}.npz", image=images(seed))
    np.savez(forge.specs / "holdout.npz", image=images(3, 32))
    return forge


@pytest.fixture
def project(forge: Forge) -> Forge:
    """The small network in three precisions, calibrated on two files of eight samples."""
    return _converting(forge)


@pytest.fixture(scope="module")
def entries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with what that is built to: of this each test would take seconds."""
    forge = Forge(tmp_path_factory.mktemp("converted"))
    forge.populate()
    return _converting(forge).made("build", "specs")


@pytest.fixture
def ready(project: Forge, entries: Path) -> Forge:
    """The same, with all of it in the cache and known to be up to date."""
    project.seed(entries)
    result = project.build()
    assert set(result.outcomes().values()) == {"reused"}, result.err + result.out
    return project


def _typed(forge: Forge) -> list[Path]:
    return sorted(forge.cache.glob("entries-v1/typed/*/*/model.onnx"))


def test_each_precision_is_built_and_then_up_to_date(project: Forge) -> None:
    assert set(project.build().outcomes().values()) == {"built"}
    assert len(project.engines()) == 3
    assert len(_typed(project)) == 2
    again = project.build()
    assert set(again.outcomes().values()) == {"reused"}
    assert again.json["effort"] == {"files_hashed": 0, "bytes_hashed": 0, "specs_parsed": 0}


def test_one_byte_of_one_sample_makes_the_quantized_variants_stale_and_no_other(
    ready: Forge,
) -> None:
    changed = images(2)
    changed[3, 0, 0, 0] += 1
    np.savez(ready.specs / "data" / "b.npz", image=changed)
    assert ready.changes() == {"int8@ada": ["calibration data 'data'"]}


def test_files_count_in_their_order(ready: Forge) -> None:
    folder = ready.specs / "data"
    (folder / "a.npz").rename(folder / "c.npz")
    assert ready.changes() == {"int8@ada": ["calibration data 'data'"]}


def test_what_files_are_called_does_not_count(ready: Forge) -> None:
    (ready.specs / "data").rename(ready.specs / "samples")
    (ready.specs / "samples" / "b.npz").rename(ready.specs / "samples" / "bb.npz")
    ready.edit("net", "data: data}", "data: samples}")
    assert ready.changes() == {}


def test_a_file_more_makes_stale(ready: Forge) -> None:
    np.savez(ready.specs / "data" / "c.npz", image=images(4))
    assert list(ready.changes()) == ["int8@ada"]


def test_thresholds_and_the_data_of_checks_rebuild_nothing(ready: Forge) -> None:
    ready.edit("net", "max_relative_error: 0.1", "max_relative_error: 0.05, min_cosine: 0.9")
    np.savez(ready.specs / "holdout.npz", image=images(5, 16))
    assert ready.changes() == {}


def test_the_same_samples_in_another_file_give_the_same_engine(ready: Forge) -> None:
    np.savez_compressed(ready.specs / "data" / "b.npz", image=images(2))
    result = ready.build("--variant", "int8")
    (variant,) = result.json["variants"]
    assert variant["outcome"] == "reused"
    assert variant["why"] == "nothing that it depends on has changed"
    assert len(_typed(ready)) == 3
    assert len(ready.engines()) == 3


@pytest.mark.parametrize(
    ("old", "new", "leaf"),
    [
        ("int8}", "int8, high_precision: fp16}", "high_precision"),
        ("int8}", "int8, keep_fp32: [/head/*]}", "keep_fp32[0]"),
        ("{data: data}", "{data: data, method: percentile}", "calibration.method"),
        ("{data: data}", "{data: data, samples: 8}", "calibration.data.samples"),
    ],
)
def test_what_is_said_of_the_conversion_is_explained(
    ready: Forge, old: str, new: str, leaf: str
) -> None:
    ready.edit("net", old, new)
    assert leaf in ready.changes()["int8@ada"]


def test_a_model_is_converted_once_for_all_targets(project: Forge) -> None:
    project.edit("net", "[ada]", "[ada, ampere]")
    result = project.build()
    assert result.code == 0, result.err
    assert len(project.engines()) == 6
    assert len(_typed(project)) == 2


def test_the_calibration_can_be_read(ready: Forge) -> None:
    shown = ready.run("show", "specs", "--variant", "int8", "--calibration", "--json")
    assert shown.code == 0, shown.err
    ((path, found),) = shown.json.items()
    assert "entries-v1/typed" in path
    assert found["method"] == "max"
    assert found["samples"] == 16
    assert "image" in json.dumps(found)
    lines = ready.run("show", "specs", "--variant", "int8", "--calibration").out
    assert "activation" in lines


def test_a_converted_entry_is_shown_and_verified(ready: Forge) -> None:
    shown = ready.run("show", _typed(ready)[0])
    assert shown.code == 0
    assert "typed" in shown.out
    assert ready.run("verify").code == 0


def test_a_converted_model_that_rots_is_made_again(ready: Forge) -> None:
    before = {path: path.read_bytes() for path in _typed(ready)}
    for path in (*_typed(ready), *ready.engines()):
        path.chmod(0o644)
        path.write_bytes(b"\0" * path.stat().st_size)
    result = ready.build()
    assert result.code == 0, result.err
    assert {path: path.read_bytes() for path in _typed(ready)} == before
    assert ready.run("verify").code == 0


def test_a_file_that_moves_from_one_data_set_to_another_changes_both(project: Forge) -> None:
    project.edit(
        "net",
        "  int8: {precision: int8}",
        "  one: {precision: int8}\n  other: {precision: int8, calibration: {data: others}}",
    )
    (project.specs / "others").mkdir()
    np.savez(project.specs / "others" / "d.npz", image=images(4))
    assert project.build().code == 0
    (project.specs / "data" / "b.npz").rename(project.specs / "others" / "b.npz")
    assert set(project.changes()) == {"one@ada", "other@ada"}


def test_a_file_that_comes_after_planning_is_no_part_of_what_was_planned(project: Forge) -> None:
    from engineforge.samples.read import Samples
    from engineforge.spec.model import ArrayFiles, TensorInterface

    planned = sorted((project.specs / "data").iterdir())
    np.savez(project.specs / "data" / "c.npz", image=images(5))
    inputs = [TensorInterface(name="image", type="float32", dims=("batch", 3, 16, 16))]
    samples = Samples(
        ArrayFiles(path="data"), project.specs, inputs, samples=None, seed=None, files=planned
    )
    assert samples.count() == 16


_FUNCTION = """\
import numpy

def samples():
    return {'image': numpy.random.default_rng(%s).standard_normal((8, 3, 16, 16), 'float32')}
"""


def test_the_source_of_a_function_counts(project: Forge) -> None:
    module = project.specs / "made.py"
    module.write_text(_FUNCTION % 0)
    project.edit("net", "{data: data}", "{data: {python: 'made:samples'}}")
    assert project.build().code == 0
    module.write_text(_FUNCTION % 1)
    assert project.changes() == {"int8@ada": ["calibration data 'made:samples'"]}


def test_a_function_that_gives_other_samples_each_time_is_refused(project: Forge) -> None:
    (project.specs / "made.py").write_text(_FUNCTION % "")
    project.edit("net", "{data: data}", "{data: {python: 'made:samples'}}")
    (variant,) = project.build("--variant", "int8").json["variants"]
    assert variant["outcome"] == "failed"
    assert "'made:samples' gives other samples each time it is called" in variant["error"]


def test_a_function_that_reads_its_input_gets_none(project: Forge) -> None:
    (project.specs / "made.py").write_text("def samples():\n    return input('go on? ')\n")
    project.edit("net", "{data: data}", "{data: {python: 'made:samples'}}")
    (variant,) = project.build("--variant", "int8").json["variants"]
    assert "'made:samples' failed at made.py:2: EOFError" in variant["error"]


def _with_images(forge: Forge) -> Forge:
    from PIL import Image

    for i in range(10):
        folder = forge.specs / "photos" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    forge.edit("net", "{data: data}", "{data: {images: photos, size: [16, 16], mean: 0.5}}")
    return forge


@pytest.fixture(scope="module")
def entries_of_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    forge = Forge(tmp_path_factory.mktemp("images"))
    forge.populate()
    return _with_images(_converting(forge)).made("build", "specs")


@pytest.fixture
def with_images(project: Forge, entries_of_images: Path) -> Forge:
    """The same, calibrated on ten images in two folders."""
    _with_images(project).seed(entries_of_images)
    result = project.build()
    assert set(result.outcomes().values()) == {"reused"}, result.err + result.out
    return project


def _one_less(photos: Path) -> None:
    (photos / "a" / "0.png").unlink()


def _one_more(photos: Path) -> None:
    (photos / "b" / "99.png").write_bytes((photos / "a" / "0.png").read_bytes())


def _reordered(photos: Path) -> None:
    (photos / "a" / "0.png").rename(photos / "b" / "99.png")


@pytest.mark.parametrize("change", [_one_less, _one_more, _reordered])
def test_images_count_in_their_order(with_images: Forge, change: Callable[[Path], None]) -> None:
    assert with_images.build().json["effort"]["files_hashed"] == 0
    change(with_images.specs / "photos")
    assert with_images.changes() == {"int8@ada": ["calibration data 'photos'"]}


def test_what_images_and_their_folders_are_called_does_not_count(with_images: Forge) -> None:
    photos = with_images.specs / "photos"
    (photos / "a").rename(photos / "aa")
    (photos / "b" / "9.png").rename(photos / "b" / "99.png")
    assert with_images.changes() == {}


def test_how_images_are_read_counts(with_images: Forge) -> None:
    with_images.edit("net", "mean: 0.5", "mean: 0.25")
    assert with_images.changes() == {"int8@ada": ["calibration.data.reading.mean[0]"]}


# Accuracy


def _check(forge: Forge, *args: str) -> dict[str, str]:
    result = forge.run("check", "specs", "--accuracy", "--json", *args)
    return {each["variant"]: each["outcome"] for each in result.json["variants"]}


def test_accuracy_is_measured_before_anything_is_built(project: Forge) -> None:
    assert _check(project) == {"fp32": "passed", "fp16": "passed", "int8": "passed"}
    assert project.engines() == []


def test_a_check_is_measured_once(ready: Forge) -> None:
    _check(ready)
    (ready.specs / "holdout.npz").touch()
    before = sorted(ready.cache.glob("entries-v1/checks/*/*"))
    assert len(before) == 3
    assert _check(ready) == {"fp32": "passed", "fp16": "passed", "int8": "passed"}
    assert sorted(ready.cache.glob("entries-v1/checks/*/*")) == before


def test_a_failed_check_says_which_layers_hurt_and_what_would_mend_it(ready: Forge) -> None:
    ready.edit("net", "max_relative_error: 0.1", "max_relative_error: 0.000002")
    result = ready.run("check", "specs", "--accuracy", "--variant", "int8")
    assert result.code == 1
    assert "FAILED   net/int8@ada" in result.out
    assert "relative_error of 'logits' is" in result.err
    assert "/conv/Conv" in result.err


def test_what_a_check_came_to_is_shown_with_the_engine(ready: Forge) -> None:
    show = ("show", "specs", "--variant", "int8")
    assert "checks     accuracy not run: engineforge check --accuracy" in ready.run(*show).out
    _check(ready)
    assert "checks     passed: accuracy (" in ready.run(*show).out
    ready.edit("net", "max_relative_error: 0.1", "max_relative_error: 0.000002")
    assert "checks     FAILED: accuracy: relative_error of 'logits'" in ready.run(*show).out


def test_other_samples_are_another_check(ready: Forge) -> None:
    _check(ready)
    np.savez(ready.specs / "holdout.npz", image=images(9, 16))
    assert "not run" in ready.run("show", "specs", "--variant", "int8").out


def test_each_variant_has_a_verdict_of_its_own(project: Forge) -> None:
    project.edit(
        "net",
        "  int8: {precision: int8}",
        "  int8: {precision: int8}\n"
        "  strict: {precision: int8, checks: {accuracy: {max_relative_error: 0.000002}}}",
    )
    assert project.build().code == 0
    _check(project)
    shown = project.run("show", "specs", "--json").json
    verdicts = {each["variant"]: each["checks"].split(":")[0] for each in shown}
    assert verdicts == {"fp32": "passed", "fp16": "passed", "int8": "passed", "strict": "FAILED"}


@pytest.mark.parametrize(
    ("holdout", "said"),
    [
        (np.zeros((16, 3, 16, 16), np.float32), "all 16 samples are the same"),
        (images(3, 1), "expected 8 samples or more, found 1"),
    ],
    ids=["zeros", "one"],
)
def test_a_check_on_data_that_shows_nothing_is_refused(
    ready: Forge, holdout: Images, said: str
) -> None:
    np.savez(ready.specs / "holdout.npz", image=holdout)
    result = ready.run("check", "specs", "--accuracy", "--keep-going")
    assert result.code == 1
    assert said in result.err


def test_an_engine_can_be_shown_without_the_data_of_its_check(ready: Forge) -> None:
    (ready.specs / "holdout.npz").unlink()
    shown = ready.run("show", "specs", "--variant", "int8")
    assert shown.code == 0
    assert "net/int8@ada" in shown.out
    assert "'holdout.npz' does not exist" in shown.err


def test_a_touched_calibration_file_is_no_other_variants_fault(project: Forge) -> None:
    (project.specs / "moving.py").write_text(
        "import numpy, pathlib\n"
        "def samples():\n"
        "    file = pathlib.Path(__file__).parent / 'data' / 'a.npz'\n"
        "    file.touch()\n"
        "    return dict(numpy.load(file))\n"
    )
    project.edit("net", "{data: data}", "{data: {python: 'moving:samples', files: [data/a.npz]}}")
    result = project.build("--keep-going")
    assert result.outcomes() == {"fp32@ada": "built", "fp16@ada": "built", "int8@ada": "failed"}
    (failed,) = (v for v in result.json["variants"] if v["outcome"] == "failed")
    assert failed["stage"] == "typed"
    assert "'a.npz' changed, or was touched" in failed["error"]


# Calibration data that cannot be trusted


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        (images(1, 1), "expected 8 samples or more, found 1"),
        (np.zeros((16, 3, 16, 16), np.float32), "sample 0"),
        (np.full((16, 3, 16, 16), np.nan, np.float32), "sample 0"),
        (images(1, 16).astype(np.float64), "float64"),
        (np.repeat(images(1, 1), 16, 0), "all 16 samples are the same"),
    ],
    ids=["one", "zeros", "nan", "float64", "copies"],
)
def test_no_int8_engine_comes_of_broken_samples(
    project: Forge, samples: npt.NDArray[np.generic], said: str
) -> None:
    np.savez(project.specs / "broken.npz", image=samples)
    project.edit("net", "{data: data}", "{data: broken.npz}")
    result = project.build("--variant", "int8")
    (variant,) = result.json["variants"]
    assert variant["outcome"] == "failed"
    assert variant["stage"] == "typed"
    assert said in variant["error"]
    assert "broken.npz" in variant["error"]
    assert project.engines() == []


def test_samples_that_were_scaled_wrongly_fail_the_check(project: Forge) -> None:
    np.savez(project.specs / "broken.npz", image=images(1, 16) * np.float32(255))
    project.edit("net", "{data: data}", "{data: broken.npz}")
    assert project.build("--variant", "int8").code == 0
    assert _check(project, "--variant", "int8") == {"int8": "failed"}
    assert "passed" not in project.run("show", "specs", "--variant", "int8").out


def test_samples_outside_the_profile_are_refused(project: Forge) -> None:
    from tests.models import convnet

    convnet(project.model, dims=("batch", 3, "height", "width"))
    larger = np.random.default_rng(0).standard_normal((8, 3, 32, 16)).astype(np.float32)
    np.savez(project.specs / "data" / "b.npz", image=larger)
    result = project.build("--variant", "int8")
    (variant,) = result.json["variants"]
    assert variant["outcome"] == "failed"
    assert "'data/b.npz', sample 0" in variant["error"]
    assert "outside the profiles" in variant["error"]
    assert project.engines() == []
