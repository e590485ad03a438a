"""A spec's matrix: which variant has what, and who wins where two places say it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engineforge.spec.load import Document, load
from engineforge.spec.matrix import Cell, Spec, expand, parse_targets, size_in_bytes
from engineforge.spec.model import InputRange, Profile, ShapeRange
from engineforge.spec.sources import PackageSource, PathSource
from engineforge.spec.validate import validate
from engineforge.target import Target

TARGETS = """\
rtx:
  backend: tensorrt_rtx
  version: 1.7.1.116
  compute_capabilities: [12.0, 8.9, 8.0]
tuned:
  backend: tensorrt_rtx
  version: 1.7.1.116
  cuda: '12'
  compute_capabilities: ['8.9']
  builder: {max_aux_streams: 1, workspace: 1GiB}
classic:
  backend: tensorrt
  version: 10.13.3.9
  cuda: '12.9'
  driver: 570.86.15
  gpu:
    name: NVIDIA H200
    compute_capability: 9.0
    sm_count: 132
    memory: 141GiB
    memory_bus_width: 6144
    l2_cache: 50MiB
    shared_memory_per_block: 49152
    shared_memory_per_sm: 228 KiB
    ecc: true
    mig_profile: 1g.18gb
"""
MODEL = "model: {source: {path: m.onnx}}\n"


def _document(kind: str, text: str) -> Document:
    document, problems = load(f"{kind}.yaml", text.encode())
    assert document is not None
    assert not problems + validate(kind, document)
    return document


def targets() -> dict[str, Target]:
    found, problems = parse_targets(_document("targets", TARGETS))
    assert not problems
    return found


def spec(text: str) -> Spec:
    made, problems = expand("net", _document("spec", MODEL + text), targets(), "targets.yaml")
    assert not problems
    return made


def cells(text: str) -> dict[str, Cell]:
    return {cell.variant.label: cell for cell in spec(text).cells}


def builder(text: str, target: str = "rtx") -> Mapping[str, object]:
    (cell,) = spec(f"{text}targets: [{target}]\n").cells
    return cell.variant.builder


def profiles(text: str) -> tuple[Profile, ...]:
    (cell,) = spec(text + "targets: [rtx]\n").cells
    return cell.variant.profiles


def fixed(*dims: int) -> InputRange:
    return InputRange(shape=ShapeRange(min=dims, opt=dims, max=dims))


def test_a_spec_without_variants_has_one() -> None:
    assert list(cells("targets: [rtx]\n")) == ["net/default@rtx"]


def test_the_matrix_is_variants_by_targets_in_the_order_of_the_file() -> None:
    text = "targets: [tuned, rtx]\nvariants: {b: {}, a: {targets: [classic]}, c: {}}\n"
    assert list(cells(text)) == [
        "net/b@tuned",
        "net/b@rtx",
        "net/a@classic",
        "net/c@tuned",
        "net/c@rtx",
    ]


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("{path: a/m.onnx}", PathSource(path="a/m.onnx")),
        ("{path: a/m.onnx, package: p}", PackageSource(package="p", path="a/m.onnx")),
    ],
)
def test_a_model_is_a_file_or_a_file_in_a_package(text: str, source: object) -> None:
    document = _document("spec", f"model: {{source: {text}}}\ntargets: [rtx]\n")
    made, _ = expand("net", document, targets(), "targets.yaml")
    assert made.model.source == source


def test_precision_is_that_of_the_model_unless_said() -> None:
    found = cells("targets: [rtx]\nvariants: {a: {}, b: {precision: fp32}}\n")
    assert [cell.variant.precision.name for cell in found.values()] == ["source", "fp32"]


@pytest.mark.parametrize(
    ("text", "target", "streams"),
    [
        ("", "tuned", 1),
        ("builder: {max_aux_streams: 2}\n", "tuned", 2),
        ("builder: {max_aux_streams: 2, tensorrt_rtx: {max_aux_streams: 3}}\n", "tuned", 3),
        ("builder: {tensorrt_rtx: {max_aux_streams: 3}, max_aux_streams: 2}\n", "tuned", 3),
        ("builder: {max_aux_streams: 2, tensorrt: {max_aux_streams: 3}}\n", "tuned", 2),
        ("builder: {max_aux_streams: 2, tensorrt: {max_aux_streams: 3}}\n", "classic", 3),
        (
            "builder: {max_aux_streams: 2, tensorrt_rtx: {max_aux_streams: 3}}\n"
            "variants: {a: {builder: {max_aux_streams: 4}}}\n",
            "tuned",
            4,
        ),
        (
            "builder: {max_aux_streams: 2}\n"
            "variants: {a: {builder: {max_aux_streams: 4, tensorrt_rtx: {max_aux_streams: 5}}}}\n",
            "tuned",
            5,
        ),
        (
            "builder: {max_aux_streams: 2}\n"
            "variants: {a: {builder: {max_aux_streams: 4, tensorrt: {max_aux_streams: 5}}}}\n",
            "tuned",
            4,
        ),
    ],
)
def test_the_nearer_place_wins_and_in_it_the_backend(text: str, target: str, streams: int) -> None:
    assert builder(text, target)["max_aux_streams"] == streams


def test_options_of_all_places_come_together() -> None:
    text = "builder: {tf32: false}\nvariants: {a: {builder: {strict_nans: true}}}\n"
    assert builder(text, "tuned") == {
        "max_aux_streams": 1,
        "workspace": 1 << 30,
        "tf32": False,
        "strict_nans": True,
    }


def test_an_option_for_another_backend_is_not_there() -> None:
    assert builder("builder: {tensorrt: {optimization_level: 4}}\n") == {}


def test_what_was_not_asked_for_is_not_there() -> None:
    assert builder("") == {}


@pytest.mark.parametrize(
    ("option", "path"),
    [
        ("tf32", ("variants", "a", "builder", "tf32")),
        ("strict_nans", ("builder", "tensorrt_rtx", "strict_nans")),
        ("direct_io", ("builder", "direct_io")),
        ("workspace", ("targets", 0, "builder", "workspace")),
    ],
)
def test_an_option_stands_where_the_winner_was_written(
    option: str, path: tuple[str | int, ...]
) -> None:
    (cell,) = spec(
        "builder: {tf32: true, direct_io: true, tensorrt_rtx: {strict_nans: true}}\n"
        "variants: {a: {builder: {tf32: false}}}\n"
        "targets: [tuned]\n"
    ).cells
    assert cell.builder[option].path == path


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1024", 1024),
        ("7B", 7),
        ("4KiB", 4096),
        ("3 MiB", 3 << 20),
        ("4GiB", 4 << 30),
        ("2TiB", 2 << 40),
    ],
)
def test_a_size_is_a_number_of_bytes(text: str, size: int) -> None:
    assert builder(f"builder: {{workspace: {text}}}\n")["workspace"] == size


@settings(deadline=None)
@given(st.integers(0, 10**15), st.sampled_from(["B", "KiB", "MiB", "GiB", "TiB"]), st.booleans())
def test_a_unit_is_a_power_of_1024(number: int, unit: str, space: bool) -> None:
    factor = 1024 ** ["B", "KiB", "MiB", "GiB", "TiB"].index(unit)
    assert size_in_bytes(f"{number}{' ' * space}{unit}") == number * factor


def test_a_shape_alone_is_its_own_minimum_and_maximum() -> None:
    assert profiles("inputs: {x: [1, 3]}\n") == ({"x": fixed(1, 3)},)


def test_a_range_has_three_shapes() -> None:
    (profile,) = profiles("inputs: {x: {min: [1], opt: [2], max: [4]}}\n")
    assert profile == {"x": InputRange(shape=ShapeRange(min=(1,), opt=(2,), max=(4,)))}


def test_a_shape_tensor_has_values() -> None:
    (profile,) = profiles("inputs: {x: {values: {min: [0], opt: [2], max: [4]}}}\n")
    values = ShapeRange(min=(0,), opt=(2,), max=(4,))
    assert profile == {"x": InputRange(values=values)}


def test_a_shape_tensor_may_have_a_shape_as_well() -> None:
    ranges = "min: [2], opt: [2], max: [2], values: {min: [-1, 0], opt: [0, 0], max: [4, 9]}"
    (profile,) = profiles(f"inputs: {{x: {{{ranges}}}}}\n")
    values = ShapeRange(min=(-1, 0), opt=(0, 0), max=(4, 9))
    assert profile == {"x": InputRange(shape=fixed(2).shape, values=values)}


def test_several_profiles_keep_their_order() -> None:
    assert profiles("profiles: [{x: [9]}, {x: [1]}, {x: [5]}]\n") == tuple(
        {"x": fixed(size)} for size in (9, 1, 5)
    )


def test_no_inputs_are_no_profiles() -> None:
    assert profiles("") == ()


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ("", ({"x": fixed(1)}, {"x": fixed(2)})),
        ("inputs: {x: [3]}", ({"x": fixed(3)},)),
        ("profiles: [{x: [4]}, {x: [5]}, {x: [6]}]", tuple({"x": fixed(n)} for n in (4, 5, 6))),
    ],
)
def test_profiles_of_a_variant_replace_those_of_the_file(
    own: str, expected: tuple[Profile, ...]
) -> None:
    text = f"profiles: [{{x: [1]}}, {{x: [2]}}]\nvariants: {{a: {{{own}}}}}\n"
    assert profiles(text) == expected


SHARED = {
    "precision": "precision: fp32",
    "inputs": "inputs: {x: [1, 3]}",
    "profiles": "profiles: [{x: [1]}, {x: [2]}]",
    "builder": "builder: {tf32: false, tensorrt_rtx: {direct_io: true}}",
    "targets": "targets: [tuned, rtx]",
}


@pytest.mark.parametrize("key", SHARED)
def test_defaults_mean_the_same_as_the_top_of_the_file(key: str) -> None:
    rest = "" if key == "targets" else "targets: [rtx]\n"
    top = spec(f"{SHARED[key]}\n{rest}")
    below = spec(f"defaults: {{{SHARED[key]}}}\n{rest}")
    assert [cell.variant for cell in top.cells] == [cell.variant for cell in below.cells]


@pytest.mark.parametrize("key", ["precision", "targets", "inputs"])
def test_a_variant_overrides_defaults(key: str) -> None:
    own = {"precision": "source", "targets": "[classic]", "inputs": "{x: [7]}"}[key]
    defaults = "precision: fp32, targets: [rtx], inputs: {x: [1]}"
    (cell,) = spec(f"defaults: {{{defaults}}}\nvariants: {{a: {{{key}: {own}}}}}\n").cells
    found = (cell.variant.precision.name, cell.variant.target.name, cell.variant.profiles[0]["x"])
    expected = {"precision": "fp32", "targets": "rtx", "inputs": fixed(1)}
    changed = {"precision": "source", "targets": "classic", "inputs": fixed(7)}
    assert found == tuple({**expected, key: changed[key]}.values())


def test_descriptions_are_no_part_of_a_variant() -> None:
    text = "targets: [rtx]\nvariants: {a: {description: what for}}\n"
    assert spec(text).cells[0].variant == spec(text.replace("what for", "why")).cells[0].variant


def test_one_wrong_range_is_one_problem_however_many_variants_share_it() -> None:
    text = "inputs: {x: {min: [2], opt: [1], max: [3]}}\ntargets: [rtx]\nvariants: {a: {}, b: {}}\n"
    _, problems = expand("net", _document("spec", MODEL + text), targets(), "targets.yaml")
    assert len(problems) == 1


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.integers(1, 9)] * 3), min_size=1, max_size=5))
def test_a_range_is_refused_exactly_where_it_is_out_of_order(
    dims: list[tuple[int, int, int]],
) -> None:
    lo, opt, hi = (tuple(dim[i] for dim in dims) for i in range(3))
    if all(a <= b <= c for a, b, c in dims):
        assert ShapeRange(min=lo, opt=opt, max=hi).opt == opt
    else:
        with pytest.raises(ValueError, match="expected min <= opt <= max"):
            ShapeRange(min=lo, opt=opt, max=hi)


def test_compute_capabilities_are_a_set() -> None:
    assert targets()["rtx"].compute_capabilities == ("8.0", "8.9", "12.0")


def test_an_rtx_target_is_for_the_cuda_that_pip_brings() -> None:
    assert targets()["rtx"].toolchain.cuda == "13"


def test_a_target_may_name_its_cuda() -> None:
    assert targets()["tuned"].toolchain.cuda == "12"


def test_a_classic_target_is_a_gpu_with_sizes_in_bytes() -> None:
    gpu = targets()["classic"].gpu
    assert gpu is not None
    assert (gpu.name, gpu.compute_capability, gpu.mig_profile) == ("NVIDIA H200", "9.0", "1g.18gb")
    assert (gpu.memory, gpu.l2_cache) == (141 << 30, 50 << 20)
    assert (gpu.shared_memory_per_block, gpu.shared_memory_per_sm) == (48 << 10, 228 << 10)


def test_the_name_of_a_target_is_not_its_identity() -> None:
    document = _document("targets", TARGETS.replace("rtx:\n", "other:\n", 1))
    renamed, _ = parse_targets(document)
    assert renamed["other"].identity() == targets()["rtx"].identity()
