"""What a variant says of its types, its data and its accuracy: who wins, and what is refused."""

from __future__ import annotations

import pytest

from engineforge.spec.load import load
from engineforge.spec.matrix import Spec, expand
from engineforge.spec.model import (
    ArrayFiles,
    Calibration,
    ImageFolder,
    Precision,
    PythonFunction,
)
from engineforge.spec.validate import validate
from tests.spec.test_matrix import targets

_MODEL = "model: {source: {path: m.onnx}}\ntargets: [rtx]\n"


def _expanded(text: str) -> tuple[Spec, list[str]]:
    document, problems = load("s.yaml", (_MODEL + text).encode())
    assert document is not None
    assert not problems + validate("spec", document)
    spec, found = expand("s", document, targets(), "targets.yaml")
    return spec, [f"{each.path}: {each.message}" for each in found]


def precisions(text: str) -> dict[str, Precision]:
    spec, problems = _expanded(text)
    assert not problems
    return {cell.variant.name: cell.variant.precision for cell in spec.cells}


def refused(text: str) -> list[str]:
    return _expanded(text)[1]


def test_without_a_word_a_model_is_built_with_the_types_that_it_has() -> None:
    assert precisions("") == {"default": Precision(name="source")}
    assert not precisions("")["default"].converts


def test_everything_that_may_be_said() -> None:
    (found,) = precisions("""
precision: int8
tool: modelopt
keep_fp32: [type:Softmax, /head/*]
high_precision: fp16
sparsity: '2:4'
keep_io_types: false
calibration: {data: samples.npz, method: entropy, samples: 64, seed: 3}
checks: {accuracy: {data: holdout.npz, min_cosine: 0.99}}
""").values()
    assert found == Precision(
        name="int8",
        tool="modelopt",
        keep_fp32=("/head/*", "type:Softmax"),
        high_precision="fp16",
        sparsity="2:4",
        keep_io_types=False,
        calibration=Calibration(
            data=ArrayFiles(path="samples.npz"), method="entropy", samples=64, seed=3
        ),
    )


def test_what_all_variants_share_is_left_out_where_it_says_nothing() -> None:
    found = precisions("""
calibration: {data: samples.npz}
high_precision: fp16
block_size: 64
variants:
  fp32: {precision: fp32}
  fp16: {precision: fp16}
  int8: {precision: int8}
  int4: {precision: int4}
""")
    assert found["fp32"] == Precision(name="fp32")
    assert found["fp16"].high_precision == "fp32"
    assert found["int8"].high_precision == "fp16"
    assert found["int8"].block_size is None
    assert found["int4"].block_size == 64


def test_what_a_variant_says_for_itself_must_mean_something() -> None:
    assert refused("variants: {a: {precision: fp16, block_size: 64, high_precision: bf16}}") == [
        "variants.a.high_precision: 'high_precision' says nothing about precision 'fp16'",
        "variants.a.block_size: 'block_size' says nothing about precision 'fp16'",
    ]


def test_a_variants_own_calibration_replaces_the_files() -> None:
    found = precisions("""
calibration: {data: samples.npz, samples: 16}
variants:
  int8: {precision: int8}
  own: {precision: int8, calibration: {data: others.npz, method: percentile}}
""")
    own = found["own"].calibration
    assert own == Calibration(
        data=ArrayFiles(path="others.npz"), method="percentile", percentile="99.99"
    )
    assert found["int8"].calibration is not None
    assert found["int8"].calibration.samples == 16


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_ranges_are_never_made_up(precision: str) -> None:
    (said,) = refused(f"precision: {precision}")
    assert said == f"precision: precision '{precision}' needs calibration data, found none"


def test_int4_needs_no_data_and_has_a_block_size() -> None:
    assert precisions("precision: int4")["default"] == Precision(name="int4", block_size=128)


def test_methods_default_to_what_was_found_sound() -> None:
    for precision, method in (("int8", "max"), ("fp8", "max"), ("int4", "awq_clip")):
        found = precisions(f"precision: {precision}\ncalibration: {{data: s.npz}}")["default"]
        assert found.calibration is not None
        assert found.calibration.method == method


def test_pruning_without_a_check_is_refused() -> None:
    (said,) = refused("precision: fp16\nsparsity: '2:4'")
    assert said.startswith("sparsity: pruning in one shot may ruin a network")


def test_pruning_asks_the_builder_for_sparse_tactics() -> None:
    checks = "checks: {accuracy: {data: h.npz, min_cosine: 0.9}}\n"
    spec, problems = _expanded(checks + "precision: source\nsparsity: '2:4'")
    assert not problems
    assert spec.cells[0].variant.builder == {"sparse_weights": True}
    assert spec.cells[0].variant.precision.converts
    off = "sparsity: '2:4'\nbuilder: {sparse_weights: false}"
    assert refused(checks + off) == [
        "builder.sparse_weights: 'sparse_weights: false' contradicts sparsity '2:4'"
    ]


def test_tf32_is_fp32_with_a_builder_option() -> None:
    spec, problems = _expanded("precision: tf32")
    assert not problems
    assert spec.cells[0].variant.builder == {"tf32": True}
    assert not spec.cells[0].variant.precision.converts
    assert refused("precision: tf32\nbuilder: {tf32: false}") == [
        "builder.tf32: 'tf32: false' contradicts precision 'tf32'"
    ]


def test_numbers_of_images_are_kept_as_they_were_written() -> None:
    found = precisions("""
precision: int8
calibration:
  data:
    images: photos
    size: [224, 192]
    fit: crop
    channels: bgr
    divide: 1.0
    mean: [103.53, 116.28, 123.675]
    std: 57.0
""")["default"].calibration
    assert found is not None
    assert found.data == ImageFolder(
        path="photos",
        size=(224, 192),
        fit="crop",
        channels="bgr",
        divide="1",
        mean=("103.53", "116.28", "123.675"),
        std=("57",),
    )


def test_a_function_and_what_it_reads() -> None:
    text = "precision: int8\ncalibration: {data: {python: 'a.b:f', files: [x.npz]}}"
    found = precisions(text)["default"].calibration
    assert found is not None
    assert found.data == PythonFunction(function="a.b:f", files=("x.npz",))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("{size: [8, 8]}", "calibration.data: expected the key 'images' or 'python', found neith"),
        ("{images: a, files: [b]}", "calibration.data.files: 'files' says nothing about images"),
        ("{python: 'a:b', size: [8, 8]}", "calibration.data.size: 'size' says nothing about py"),
        ("{images: a, mean: [1, 2]}", "calibration.data.mean: expected 1 or 3 numbers, found 2"),
        ("{images: a, std: 0}", "calibration.data.std: expected numbers other than 0"),
        ("{images: a, fit: pad}", "calibration.data.fit: 'fit' says how to reach a 'size', foun"),
    ],
)
def test_data_sets_that_mean_nothing(data: str, said: str) -> None:
    (found, *_) = refused(f"precision: int8\ncalibration: {{data: {data}}}")
    assert found.startswith(said)


@pytest.mark.parametrize(
    ("calibration", "said"),
    [
        ("{data: a.npz, percentile: 99}", "'percentile' says nothing about the method 'max'"),
        ("{data: a.npz, seed: 1}", "'seed' chooses 'samples' of the data at random, and that is"),
    ],
)
def test_settings_that_mean_nothing(calibration: str, said: str) -> None:
    (found,) = refused(f"precision: int8\ncalibration: {calibration}")
    assert said in found


def test_casts_have_no_calibration_methods() -> None:
    (found,) = refused("precision: fp16\ncalibration: {data: a.npz, method: entropy}")
    assert "precision 'fp16' has no calibration methods" in found
    shared = "calibration: {data: a.npz, method: entropy}\nvariants: {a: {precision: fp16}}"
    calibration = precisions(shared)["a"].calibration
    assert calibration is not None
    assert calibration.method == "max"


def test_bf16_reaches_as_far_as_fp32_and_needs_no_data() -> None:
    (found,) = refused("precision: bf16\ncalibration: {data: a.npz}")
    assert "'calibration' says nothing about precision 'bf16'" in found


def test_a_variant_has_the_files_check_with_thresholds_of_its_own() -> None:
    spec, problems = _expanded("""
checks: {accuracy: {data: h.npz, labels: y, min_top1_agreement: 0.99, max_top1_drop: 0.01}}
variants:
  fp16: {precision: fp16}
  int4: {precision: int4, checks: {accuracy: {min_top1_agreement: 0.9, samples: 32}}}
""")
    assert not problems
    fp16, int4 = (cell.variant.accuracy for cell in spec.cells)
    assert fp16 is not None
    assert int4 is not None
    assert fp16.thresholds == {"min_top1_agreement": 0.99, "max_top1_drop": 0.01}
    assert int4.thresholds == {"min_top1_agreement": 0.9, "max_top1_drop": 0.01}
    assert (fp16.samples, int4.samples) == (None, 32)
    assert int4.data == ArrayFiles(path="h.npz")


@pytest.mark.parametrize(
    ("accuracy", "said"),
    [
        ("{data: h.npz}", "checks.accuracy: an accuracy check without a threshold passes nothing"),
        ("{min_cosine: 0.9}", "checks.accuracy: expected the key 'data', found none"),
        ("{data: h.npz, min_top1: 0.9}", "checks.accuracy.min_top1: needs 'labels': the array of "),
    ],
)
def test_checks_that_check_nothing(accuracy: str, said: str) -> None:
    (found,) = refused(f"checks: {{accuracy: {accuracy}}}")
    assert found.startswith(said)
