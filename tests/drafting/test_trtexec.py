"""Commands of trtexec to specs: what people wrote, and what each flag becomes."""

from __future__ import annotations

from typing import Any

import pytest

from engineforge.drafting.draft import Draft, Untranslated
from engineforge.drafting.shell import commands
from engineforge.drafting.text import lines
from engineforge.drafting.trtexec import translate
from engineforge.spec.load import load
from engineforge.spec.matrix import expand, parse_targets
from engineforge.spec.model import ModelInterface, TensorInterface
from engineforge.spec.validate import validate
from engineforge.target import Target
from tests.conftest import CLASSIC, TARGETS
from tests.drafting.lines import LINES, Line


def _targets(text: str) -> dict[str, Target]:
    document, _ = load("targets.yaml", text.encode())
    assert document is not None
    return parse_targets(document)[0]


RTX = {"ada": _targets(TARGETS)["ada"]}
H200 = _targets(CLASSIC)


def _draft(
    text: str,
    *,
    targets: dict[str, Target] = RTX,
    interface: ModelInterface | None = None,
    calibration: str | None = None,
) -> Draft:
    (command,) = commands(text)
    return translate(
        command,
        interface=interface,
        targets=targets,
        place=lambda path: path,
        calibration=calibration,
    )


def _values(flags: str, **more: Any) -> Any:  # noqa: ANN401
    return _draft(f"trtexec --onnx=m.onnx {flags}", **more).values


def _notes(flags: str, effect: str, **more: Any) -> list[str]:  # noqa: ANN401
    found = _draft(f"trtexec --onnx=m.onnx {flags}", **more).notes
    return [note.flag for note in found if note.effect == effect]


def _refused(flags: str, **more: Any) -> dict[str, str]:  # noqa: ANN401
    with pytest.raises(Untranslated) as error:
        _values(flags, **more)
    return {each.flag: each.text for each in error.value.reasons}


def _interface(*tensors: tuple[str, str, tuple[int | str | None, ...]], **features: str) -> Any:  # noqa: ANN401
    inputs = tuple(TensorInterface(name=n, type=t, dims=d) for n, t, d in tensors)
    return ModelInterface(
        inputs=inputs,
        outputs=(TensorInterface(name="y", type="float32", dims=(1,)),),
        opsets={"": 17},
        external=(),
        features=features,
        nodes=1,
        weight_bytes=0,
    )


def _is_a_spec(draft: Draft, targets: dict[str, Target]) -> None:
    text = "\n".join(lines(draft.values))
    document, problems = load("spec.yaml", text.encode())
    assert document is not None
    assert document.value == draft.values
    problems += validate("spec", document)
    assert not problems, text
    _, problems = expand("spec", document, targets, "targets.yaml")
    assert not problems, text


@pytest.mark.parametrize("line", LINES, ids=[f"{x.source}-{i}" for i, x in enumerate(LINES)])
def test_what_people_wrote_is_a_spec_or_says_which_flags_are_in_the_way(line: Line) -> None:
    if line.refused:
        with pytest.raises(Untranslated) as error:
            translate(line.command, interface=None, targets=RTX, place=lambda path: path)
        assert list(dict.fromkeys(each.flag for each in error.value.reasons)) == line.refused
        return
    draft = translate(line.command, interface=None, targets=RTX, place=lambda path: path)
    _is_a_spec(draft, RTX)
    for effect, flags in (
        ("to do", line.to_do),
        ("left out", line.left_out),
        ("differs", line.differs),
    ):
        found = [note.flag for note in draft.notes if note.effect == effect]
        assert list(dict.fromkeys(found)) == list(flags)


def test_most_of_what_people_wrote_is_translated() -> None:
    translated = [line for line in LINES if not line.refused]
    whole = [line for line in translated if not line.to_do and not line.left_out]
    assert (len(LINES), len(translated), len(whole)) == (58, 41, 29)


def test_only_opt_shapes_fix_the_input() -> None:
    assert _values("--optShapes=x:4x3")["inputs"] == {"x": [4, 3]}


def test_what_is_missing_of_three_shapes_is_taken_from_the_others() -> None:
    assert _values("--minShapes=x:1 --maxShapes=x:8")["inputs"] == {
        "x": {"min": [1], "opt": [8], "max": [8]}
    }


def test_shapes_are_run_with_where_a_profile_is_there_and_built_for_where_none_is() -> None:
    draft = _draft(
        "trtexec --onnx=m.onnx --minShapes=x:1 --optShapes=x:2 --maxShapes=x:4 --shapes=x:3,z:5"
    )
    assert draft.values["inputs"] == {"x": {"min": [1], "opt": [2], "max": [4]}, "z": [5]}
    assert draft.measuring == ["--shapes", "x=3", "--shapes", "z=5"]


def test_an_input_that_may_vary_and_has_no_shape_is_1_there_as_in_trtexec() -> None:
    interface = _interface(
        ("x", "float32", ("batch", 3, None)), ("y", "float32", (None,)), ("z", "float32", (4,))
    )
    draft = _draft("trtexec --onnx=m.onnx --shapes=y:7", interface=interface)
    assert draft.values["inputs"] == {"x": [1, 3, 1], "y": [7]}
    (note,) = (each for each in draft.notes if each.effect == "differs")
    assert "'x', which is 1x3x1 then, as trtexec has it" in note.text


def test_profiles_are_kept_in_their_order() -> None:
    flags = (
        "--profile=0 --minShapes=x:1 --optShapes=x:1 --maxShapes=x:1 --profile=1 --optShapes=x:9"
    )
    assert _values(flags)["profiles"] == [{"x": [1]}, {"x": [9]}]


def test_input_names_may_have_colons_and_quotes() -> None:
    flags = "--optShapes=\"'in:0':2x3\",onnx::Conv_1:4"
    assert _values(flags)["inputs"] == {"in:0": [2, 3], "onnx::Conv_1": [4]}


def test_a_star_in_a_name_means_inputs_of_the_model() -> None:
    interface = _interface(("past.0", "float32", (None,)), ("past.1", "float32", (None,)))
    flags = "--optShapes=past.*:7"
    assert _values(flags, interface=interface)["inputs"] == {"past.0": [7], "past.1": [7]}
    assert "optShapes" in _refused(flags)


def test_a_shape_tensor_is_given_values() -> None:
    interface = _interface(("x", "float32", (None, 4)), ("shape", "int64", (2,)))
    flags = "--minShapes=x:1x4,shape:1x4 --optShapes=x:2x4,shape:2x4 --maxShapes=x:8x4,shape:8x4"
    assert _values(flags, interface=interface)["inputs"]["shape"] == {
        "values": {"min": [1, 4], "opt": [2, 4], "max": [8, 4]}
    }


def test_a_size_without_end_is_refused() -> None:
    assert "expected a size" in _refused(f"--workspace={'9' * 400}")["workspace"]


def test_shapes_that_cannot_be_are_refused() -> None:
    assert "dimension of 0" in _refused("--minShapes=x:0 --optShapes=x:1")["minShapes"]
    assert "min <= opt" in _refused("--minShapes=x:4 --optShapes=x:1 --maxShapes=x:8")["optShapes"]
    assert "twice" in _refused("--optShapes=x:4 --optShapes=x:1")["optShapes"]


@pytest.mark.parametrize(
    ("flags", "variants"),
    [
        ("", {"source": {"precision": "source"}}),
        ("--fp16", {"fp16": {"precision": "fp16"}}),
        ("--fp16 --bf16", {"fp16": {"precision": "fp16"}, "bf16": {"precision": "bf16"}}),
        ("--int4", {"int4": {"precision": "int4", "calibration": {"data": "s.npz"}}}),
        ("--fp16 --stronglyTyped", {"source": {"precision": "source"}}),
        (
            "--int8 --fp16",
            {
                "int8": {
                    "precision": "int8",
                    "high_precision": "fp16",
                    "calibration": {"data": "s.npz"},
                }
            },
        ),
        (
            "--best",
            {
                "fp16": {"precision": "fp16"},
                "int8": {
                    "precision": "int8",
                    "high_precision": "fp16",
                    "calibration": {"data": "s.npz"},
                },
            },
        ),
        (
            "--fp16 --precisionConstraints=obey --layerPrecisions=/h/*:fp32,/k:fp16",
            {"fp16": {"precision": "fp16", "keep_fp32": ["/h/*"]}},
        ),
    ],
)
def test_precision_flags_are_variants(flags: str, variants: object) -> None:
    assert _values(flags, calibration="s.npz")["variants"] == variants


def test_a_model_that_says_its_types_is_built_as_it_is() -> None:
    interface = _interface(("x", "float32", (1,)), quantized="q0")
    values = _values("--int8 --fp16", interface=interface)
    assert values["variants"] == {"source": {"precision": "source"}}


def test_samples_that_are_missing_are_said() -> None:
    assert _notes("--int8", "to do") == ["int8"]
    assert _notes("--int8", "to do", calibration="s.npz") == []


def test_a_calibration_cache_has_no_place() -> None:
    assert _notes("--int8 --calib=c.cache", "left out", calibration="s.npz") == ["calib"]


@pytest.mark.parametrize(
    ("flags", "builder"),
    [
        ("--noTF32", {"tf32": False}),
        ("--workspace=4096", {"workspace": "4GiB"}),
        ("--memPoolSize=workspace:512,tacticSharedMem:64K", {"workspace": "512MiB"}),
        ("--memPoolSize=workspace:2G", {"workspace": "2GiB"}),
        ("--maxAuxStreams=2", {"max_aux_streams": 2}),
        ("--profilingVerbosity=verbose", {"profiling_verbosity": "detailed"}),
        ("--sparsity=enable", {"sparse_weights": True}),
        ("--markDebug=a,b", {"debug_tensors": ["a", "b"]}),
        (
            "--preview=+runtimeActivationResize",
            {"preview_features": {"runtime_activation_resize_10_10": True}},
        ),
        ("--stripWeights --allowWeightStreaming", {"weight_streaming": True}),
    ],
)
def test_options_that_tensorrt_rtx_has_stand_for_all(flags: str, builder: dict[str, Any]) -> None:
    found = dict(_values(flags)["builder"])
    found.pop("tensorrt", None)
    found.pop("tactic_shared_memory", None)
    assert found == builder


@pytest.mark.parametrize(
    ("flags", "classic"),
    [
        ("--builderOptimizationLevel=5", {"optimization_level": 5}),
        (
            "--useDLACore=1 --allowGPUFallback",
            {"default_device_type": "dla", "DLA_core": 1, "gpu_fallback": True},
        ),
        (
            "--tilingOptimizationLevel=2 --l2LimitForTiling=-1",
            {"tiling_optimization_level": "moderate"},
        ),
        ("--vc --excludeLeanRuntime", {"version_compatible": True, "exclude_lean_runtime": True}),
        (
            "--tacticSources=-CUDNN,-CUBLAS",
            {"tactic_sources": ["cublas_lt", "edge_mask_convolutions", "jit_convolutions"]},
        ),
        (
            "--plugins=a.so --dynamicPlugins=b.so --setPluginsToSerialize=b.so",
            {"plugins": ["a.so", "b.so"], "plugins_to_serialize": ["b.so"]},
        ),
        (
            "--safe --useDLACore=0",
            {
                "engine_capability": "dla_standalone",
                "default_device_type": "dla",
                "DLA_core": 0,
            },
        ),
        ("--safetyPlugins=p.so[n::p]", {"safety_plugins": ["p.so"]}),
        ("--layerDeviceTypes=a:DLA,'b:c':GPU", {"layer_device_types": {"a": "dla", "b:c": "gpu"}}),
        ("--pi --noBuilderCache", {"native_instancenorm": False, "disable_timing_cache": True}),
        ("--setBuildRoute=-a=on", {"build_route": "-a=on"}),
        ("--stripAllWeights", {"strip_plan": True, "refit": True}),
        ("--runtimePlatform=WindowsAMD64", {"runtime_platform": "windows_amd64"}),
        ("--decomposableAttentions=*", {"decomposable_attentions": ["*"]}),
    ],
)
def test_options_that_tensorrt_rtx_lacks_stand_under_tensorrt(flags: str, classic: object) -> None:
    draft = _draft(f"trtexec --onnx=m.onnx {flags}")
    assert draft.values["builder"]["tensorrt"] == classic
    assert "differs" in {note.effect for note in draft.notes}
    _is_a_spec(draft, RTX)


def test_what_a_target_refuses_is_left_out_and_said() -> None:
    draft = _draft("trtexec --onnx=m.onnx --heuristic --builderOptimizationLevel=4", targets=H200)
    assert draft.values["builder"] == {"tensorrt": {"optimization_level": 4}}
    (note,) = [each for each in draft.notes if each.effect == "left out"]
    assert note.flag == "heuristic"
    assert "tensorrt 10.13.3.9" in note.text


def test_an_engine_for_several_gpus_gets_a_workspace() -> None:
    values = _values("--hardwareCompatibilityLevel=ampere+", targets=H200)
    assert values["builder"] == {
        "workspace": "4GiB",
        "tensorrt": {"hardware_compatibility": "ampere_plus"},
    }


def test_formats_are_by_the_names_of_the_model() -> None:
    interface = _interface(("a", "float32", (1, 4)), ("b", "float32", (1, 4)))
    values = _values("--inputIOFormats=fp32:chw,fp32:chw16+hwc8", interface=interface)
    assert values["builder"] == {"io_formats": {"b": {"formats": ["chw16", "hwc8"]}}}
    assert "inputIOFormats" in _refused("--inputIOFormats=chw,chw,chw", interface=interface)
    half = "--inputIOFormats=fp16:chw"
    assert _notes(half, "left out", interface=interface) == ["inputIOFormats"] * 2


@pytest.mark.parametrize(
    "flags",
    [
        "--memPoolSize=8G",
        "--memPoolSize=gpu:4",
        "--workspace=much",
        "--tacticSources=CUDNN",
        "--builderOptimizationLevel=high",
        "--sparsity=maybe",
        "--precisionConstraints=strict",
        "--hardwareCompatibilityLevel=hopper",
        "--remoteAutoTuningConfig=ssh://u:p@h",
        "--nothingLikeIt",
        "--minShape=x:1",
        "--onnx",
    ],
)
def test_a_flag_that_trtexec_would_refuse_is_refused(flags: str) -> None:
    name = flags.removeprefix("--").partition("=")[0]
    assert name in _refused(flags)


def test_a_password_is_in_no_text() -> None:
    (command,) = commands("trtexec --onnx=m.onnx --remoteAutoTuningConfig=ssh://u:secret@h")
    assert "secret" not in str(command)


def test_a_loaded_engine_is_measured_and_not_built() -> None:
    with pytest.raises(Untranslated) as error:
        _draft(
            "trtexec --loadEngine=e.plan --warmUp=500 --infStreams=2 --useCudaGraph --dumpProfile"
        )
    assert str(error.value.hint) == (
        "to measure it: engineforge bench e.plan --warm-up 500 --streams 2 --cuda-graph --layers"
    )


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ("--saveEngine=out/net v2.engine", "net-v2"),
        ("--saveEngine=$OUT", "m"),
        ("", "m"),
    ],
)
def test_a_spec_is_called_as_its_engine(flags: str, name: str) -> None:
    assert (
        _draft(f"trtexec --onnx=a/m.onnx '{flags}'" if flags else "trtexec --onnx=m.onnx").name
        == name
    )


def test_variables_are_left_and_said() -> None:
    draft = _draft("trtexec --onnx=$MODEL/net.onnx")
    assert draft.values["model"]["source"]["path"] == "$MODEL/net.onnx"
    assert [note.flag for note in draft.notes if note.effect == "to do"] == ["onnx"]
