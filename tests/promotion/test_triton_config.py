from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tritonclient", reason="python -m pip install 'engineforge[triton]'")

from engineforge.errors import EngineForgeError, HostUnfit, UsageError
from engineforge.promotion.triton.config import Served, model_config
from engineforge.promotion.triton.engines import Exported, engine_of
from engineforge.promotion.triton.schema import Schema
from engineforge.spec.model import InputRange, Profile, ShapeRange
from tests.promotion.triton import IMAGE, LOGITS, UP_TO_8, engine, ranges, tensor


def config(
    *engines: Exported,
    size: int | None = None,
    backend: str | None = None,
    before: Any = None,  # noqa: ANN401 - protobuf's ModelConfig
) -> Any:  # noqa: ANN401
    """What Triton's schema reads of the configuration of version 7 in staging."""
    schema = Schema()
    served = Served(
        name="ocr",
        environment="staging",
        number=7,
        instances=1,
        max_batch_size=size,
        backend=backend,
    )
    found = [engine_of(each, backend=backend) for each in engines]
    made = model_config(schema, found, served, before)
    return read(schema.write(made))


def read(data: bytes) -> Any:  # noqa: ANN401
    """By Triton's own schema."""
    from google.protobuf import text_format

    return text_format.Parse(data.decode(), Schema().model_config())


WHOLE = """\
name: "ocr"
platform: "tensorrt_plan"
backend: "tensorrt"
version_policy { specific { versions: 7 } }
max_batch_size: 8
input { name: "image" data_type: TYPE_FP32 dims: [3, 16, 16] }
output { name: "logits" data_type: TYPE_FP32 dims: [10] }
instance_group { count: 1 kind: KIND_GPU profile: "0" }
default_model_filename: "model_9_0.engine"
cc_model_filenames { key: "9.0" value: "model_9_0.engine" }
parameters { key: "engineforge.environment" value { string_value: "staging" } }
parameters { key: "engineforge.number" value { string_value: "7" } }
parameters { key: "engineforge.spec" value { string_value: "ocr" } }
parameters { key: "engineforge.variant" value { string_value: "fp16" } }
parameters { key: "engineforge.digest.h200" value { string_value: "DIGEST" } }
parameters { key: "engineforge.sha256.h200" value { string_value: "FILE" } }
"""


def test_a_configuration_says_all_that_triton_needs(tmp_path: Path) -> None:
    given = engine(tmp_path)
    text = WHOLE.replace("DIGEST", given.digest)
    text = text.replace("FILE", given.manifest.files["model.engine"].sha256)
    assert config(given) == read(text.encode())


TYPES = {
    "FLOAT": "TYPE_FP32",
    "HALF": "TYPE_FP16",
    "BF16": "TYPE_BF16",
    "INT8": "TYPE_INT8",
    "INT32": "TYPE_INT32",
    "INT64": "TYPE_INT64",
    "UINT8": "TYPE_UINT8",
    "BOOL": "TYPE_BOOL",
}


@pytest.mark.parametrize(("theirs", "tritons"), TYPES.items())
def test_types_are_tritons(tmp_path: Path, theirs: str, tritons: str) -> None:
    found = config(engine(tmp_path, outputs=[tensor("logits", [-1, 10], theirs)])).output[0]
    assert (
        type(found).DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_name[tritons].number
        == found.data_type
    )


@pytest.mark.parametrize("dtype", ["FP8", "INT4", "FP4", "E8M0"])
def test_a_type_that_triton_has_not_is_refused(tmp_path: Path, dtype: str) -> None:
    with pytest.raises(EngineForgeError, match=f"'logits' has TensorRT's type '{dtype}'"):
        config(engine(tmp_path, outputs=[tensor("logits", [-1, 10], dtype)]))


FROM_4: Profile = {"image": ranges((4, 3, 16, 16), (8, 3, 16, 16))}
OF_1: Profile = {"image": ranges((1, 3, 16, 16), (1, 3, 16, 16))}
TWO = [tensor("a", ["n", 2]), tensor("b", ["n", 2])]
BOXES = [tensor("image", ["batch", 3, 16, 16]), tensor("boxes", ["count", 4])]


@pytest.mark.parametrize(
    ("profiles", "inputs", "outputs", "size"),
    [
        ([UP_TO_8], [IMAGE], [LOGITS], 8),
        ([FROM_4, UP_TO_8], [IMAGE], [LOGITS], 8),
        ([OF_1], [IMAGE], [LOGITS], 1),
        ([UP_TO_8], [IMAGE], [tensor("logits", [4, 10])], 0),
        ([{}], [tensor("image", [8, 3, 16, 16])], [LOGITS], 0),
        ([UP_TO_8], [IMAGE], [tensor("mean", [])], 0),
        ([OF_1, UP_TO_8], [IMAGE], [LOGITS], 0),
        ([FROM_4], [IMAGE], [LOGITS], 0),
        ([{**UP_TO_8, "boxes": ranges((1, 4), (8, 4))}], BOXES, [LOGITS], 0),
        ([{"a": ranges((1, 2), (8, 2)), "b": ranges((1, 2), (4, 2))}], TWO, [LOGITS], 0),
        ([UP_TO_8], [IMAGE], [LOGITS, tensor("sizes", [-1], "INT64", shape_tensor=True)], 0),
    ],
    ids=[
        "changes everywhere",
        "profiles of one largest batch",
        "a batch of one",
        "fixed in an output",
        "fixed in an input",
        "an output without dimensions",
        "profiles of different largest batches",
        "no batch of one",
        "called otherwise",
        "inputs of different largest batches",
        "shape tensors",
    ],
)
def test_batches_are_made_only_where_triton_may_put_requests_together(
    tmp_path: Path,
    profiles: Sequence[Profile],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    size: int,
) -> None:
    found = config(engine(tmp_path, profiles=profiles, inputs=inputs, outputs=outputs))
    assert found.max_batch_size == size
    whole = [tuple(each["dims"][1:] if size else each["dims"]) or (1,) for each in inputs]
    assert [tuple(each.dims) for each in found.input] == whole


def test_no_batching_can_be_asked_for(tmp_path: Path) -> None:
    found = config(engine(tmp_path), size=0)
    assert found.max_batch_size == 0
    assert list(found.input[0].dims) == [-1, 3, 16, 16]
    assert list(found.output[0].dims) == [-1, 10]


def test_no_batching_can_be_asked_for_where_there_is_none(tmp_path: Path) -> None:
    assert config(engine(tmp_path, outputs=[tensor("logits", [4, 10])]), size=0).max_batch_size == 0


def test_smaller_batches_can_be_asked_for(tmp_path: Path) -> None:
    assert config(engine(tmp_path), size=4).max_batch_size == 4


def test_the_largest_batch_of_any_profile_can_be_asked_for(tmp_path: Path) -> None:
    assert config(engine(tmp_path, profiles=[OF_1, UP_TO_8]), size=8).max_batch_size == 8


def test_a_batch_that_is_too_large_for_one_input_is_refused(tmp_path: Path) -> None:
    profile = {"a": ranges((1, 2), (8, 2)), "b": ranges((1, 2), (4, 2))}
    given = engine(tmp_path, inputs=TWO, profiles=[profile])
    assert config(given, size=4).max_batch_size == 4
    with pytest.raises(UsageError, match="the largest of its profiles is 4"):
        config(given, size=5)


@pytest.mark.parametrize(
    ("outputs", "size", "why"),
    [
        ([LOGITS], 9, "the largest of its profiles is 8"),
        ([tensor("logits", [4, 10])], 8, "is fixed, or it has shape tensors"),
    ],
)
def test_batches_that_cannot_be_are_refused(
    tmp_path: Path, outputs: Sequence[Any], size: int, why: str
) -> None:
    with pytest.raises(UsageError, match=why):
        config(engine(tmp_path, outputs=outputs), size=size)


def test_all_profiles_are_one_groups(tmp_path: Path) -> None:
    (group,) = config(engine(tmp_path, profiles=[OF_1, FROM_4, UP_TO_8])).instance_group
    assert list(group.profile) == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("output", "size"), [(tensor("best", [-1]), 8), (tensor("mean", []), 0)], ids=["batch", "none"]
)
def test_a_tensor_without_dimensions_is_reshaped(
    tmp_path: Path, output: dict[str, Any], size: int
) -> None:
    found = config(engine(tmp_path, outputs=[output]))
    assert found.max_batch_size == size
    assert list(found.output[0].dims) == [1]
    assert found.output[0].HasField("reshape")
    assert list(found.output[0].reshape.shape) == []


WANTED = tensor("wanted", [2], "INT64", shape_tensor=True)
VALUES = InputRange(values=ShapeRange(min=(1, 1), opt=(2, 2), max=(4, 4)))


def test_shape_tensors_are_marked(tmp_path: Path) -> None:
    found = config(
        engine(tmp_path, inputs=[IMAGE, WANTED], profiles=[{**UP_TO_8, "wanted": VALUES}])
    )
    assert [each.is_shape_tensor for each in found.input] == [False, True]
    assert list(found.input[1].dims) == [2]


def test_a_shape_tensor_without_dimensions_is_refused(tmp_path: Path) -> None:
    scalar = tensor("wanted", [], "INT64", shape_tensor=True)
    with pytest.raises(EngineForgeError, match="is a shape tensor without dimensions"):
        config(engine(tmp_path, inputs=[IMAGE, scalar]))


@pytest.mark.parametrize(("layout", "marked"), [("chw32", True), ("linear", False)])
def test_formats_that_are_not_linear_are_marked(tmp_path: Path, layout: str, marked: bool) -> None:
    found = config(engine(tmp_path, builder={"io_formats": {"image": {"formats": [layout]}}}))
    assert found.input[0].is_non_linear_format_io is marked
    assert found.output[0].is_non_linear_format_io is False


def test_formats_of_which_tensorrt_took_one_are_refused(tmp_path: Path) -> None:
    builder = {"io_formats": {"image": {"formats": ["linear", "chw32"]}}}
    with pytest.raises(EngineForgeError, match=r"one of several formats \(linear, chw32\)"):
        config(engine(tmp_path, builder=builder))


def test_gpus_are_told_apart_by_compute_capability(tmp_path: Path) -> None:
    found = config(engine(tmp_path), engine(tmp_path, target="l4", gpu="8.9"))
    assert dict(found.cc_model_filenames) == {
        "8.9": "model_8_9.engine",
        "9.0": "model_9_0.engine",
    }


def test_a_gpu_that_none_of_several_engines_is_for_gets_none(tmp_path: Path) -> None:
    found = config(engine(tmp_path), engine(tmp_path, target="l4", gpu="8.9"))
    assert found.default_model_filename == ""


def test_two_engines_of_one_compute_capability_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'h200' and 'h100' are both for GPUs") as raised:
        config(engine(tmp_path), engine(tmp_path, target="h100"))
    assert "--target h200" in str(raised.value)


def test_a_portable_engine_is_what_other_gpus_load(tmp_path: Path) -> None:
    builder = {"hardware_compatibility": "ampere_plus", "workspace": 1 << 30}
    found = config(engine(tmp_path), engine(tmp_path, target="any", gpu="8.6", builder=builder))
    assert found.default_model_filename == "model_ampere_and_later.engine"
    assert dict(found.cc_model_filenames) == {"9.0": "model_9_0.engine"}


def test_two_portable_engines_are_refused(tmp_path: Path) -> None:
    builder = {"hardware_compatibility": "ampere_plus", "workspace": 1 << 30}
    both = [engine(tmp_path, target=each, builder=builder) for each in ("any", "other")]
    with pytest.raises(UsageError, match="'any' and 'other' are both for all GPUs since Ampere"):
        config(*both)


def test_an_engine_of_one_compute_capability_is_for_all_its_gpus(tmp_path: Path) -> None:
    builder = {"hardware_compatibility": "same_compute_capability", "workspace": 1 << 30}
    found = config(engine(tmp_path, builder=builder))
    assert dict(found.cc_model_filenames) == {"9.0": "model_9_0.engine"}


def test_an_engine_for_several_compute_capabilities_has_an_entry_for_each(tmp_path: Path) -> None:
    found = config(engine(tmp_path, backend="tensorrt_rtx", gpu="8.0 8.6"), backend="rtx")
    assert dict(found.cc_model_filenames) == dict.fromkeys(("8.0", "8.6"), "model_8_0_8_6.engine")


def test_a_backend_of_ones_own_is_told_no_profiles(tmp_path: Path) -> None:
    found = config(engine(tmp_path, backend="tensorrt_rtx", gpu="8.9"), backend="rtx")
    assert (found.backend, found.platform) == ("rtx", "")
    assert list(found.instance_group[0].profile) == []


@pytest.mark.parametrize(
    "other",
    [
        {"outputs": [tensor("logits", [-1, 11])]},
        {"outputs": [tensor("logits", [-1, 10], "HALF")]},
        {"profiles": [UP_TO_8, UP_TO_8]},
    ],
    ids=["dimensions", "type", "profiles"],
)
def test_engines_that_differ_are_not_one_model(tmp_path: Path, other: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="'h200' and 'l4' have different inputs, outputs or prof"):
        config(engine(tmp_path), engine(tmp_path, target="l4", gpu="8.9", **other))


def test_variants_are_not_one_model(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'ocr/fp16' and 'ocr/int8' cannot be one model"):
        config(engine(tmp_path), engine(tmp_path, target="l4", gpu="8.9", variant="int8"))


def test_a_model_without_engines_is_none() -> None:
    with pytest.raises(UsageError, match="no engine to export"):
        config()


@pytest.mark.parametrize(
    ("builder", "why"),
    [
        ({"strip_plan": True}, "Triton does not refit engines"),
        ({"engine_capability": "safety"}, "Triton loads 'standard' ones"),
        ({"default_device_type": "dla"}, "runs on a DLA core"),
    ],
    ids=["weights", "capability", "dla"],
)
def test_what_triton_cannot_serve_is_refused(
    tmp_path: Path, builder: dict[str, object], why: str
) -> None:
    with pytest.raises(EngineForgeError, match=why):
        config(engine(tmp_path, builder=builder))


def test_an_entry_from_before_exports_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineForgeError, match="built before its inputs and outputs") as raised:
        config(engine(tmp_path, interface=False))
    assert "build it again" in str(raised.value)


def test_what_somebody_added_stays(tmp_path: Path) -> None:
    given = engine(tmp_path)
    before = config(given)
    before.dynamic_batching.max_queue_delay_microseconds = 100
    before.output[0].label_filename = "digits.txt"
    before.parameters["execution_context_allocation_strategy"].string_value = "STATIC"
    before.parameters["engineforge.digest.gone"].string_value = "sha256:0"
    before.max_batch_size = 2
    found = config(given, before=before)
    assert found.dynamic_batching.max_queue_delay_microseconds == 100
    assert found.output[0].label_filename == "digits.txt"
    assert found.parameters["execution_context_allocation_strategy"].string_value == "STATIC"
    assert "engineforge.digest.gone" not in found.parameters
    assert found.max_batch_size == 8


@pytest.mark.parametrize(
    ("builder", "needs"),
    [
        ({}, ["TensorRT 10.13.3.9"]),
        (
            {"version_compatible": True},
            [
                "TensorRT 10.13.3.9 or a later one, and "
                "--backend-config=tensorrt,version-compatible=true"
            ],
        ),
        (
            {"plugins": ["sha256:1"]},
            [
                "TensorRT 10.13.3.9",
                "--backend-config=tensorrt,plugins=… with its plugin libraries: sha256:1",
            ],
        ),
    ],
    ids=["plain", "version compatible", "plugins"],
)
def test_how_triton_must_be_started_is_said(
    tmp_path: Path, builder: dict[str, object], needs: list[str]
) -> None:
    assert list(engine_of(engine(tmp_path, builder=builder), backend=None).needs) == needs


def test_without_tritons_package_the_host_is_unfit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tritonclient", None)
    with pytest.raises(HostUnfit, match="schema is not installed") as raised:
        Schema()
    assert "pip install 'engineforge[triton]'" in str(raised.value)


def test_the_schema_loads_without_grpc() -> None:
    code = (
        "import sys; from engineforge.promotion.triton.schema import Schema; Schema();"
        "sys.exit('grpc' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
