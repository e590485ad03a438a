"""The model configuration of a version: which engine runs where, tensors, profiles, batches, and
where all of it comes from. Decides; writes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engineforge.errors import EngineForgeError, UsageError
from engineforge.promotion.triton.engines import Engine, Interface, Tensor
from engineforge.promotion.triton.schema import Schema

_OURS = "engineforge."
# What an export decides; whatever else somebody wrote into a configuration stays.
_OWNED = (
    "name",
    "platform",
    "backend",
    "version_policy",
    "max_batch_size",
    "input",
    "output",
    "instance_group",
    "default_model_filename",
    "cc_model_filenames",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What a model serves: the version that an environment stands at, and how."""

    name: str
    environment: str
    number: int
    instances: int
    max_batch_size: int | None
    backend: str | None


def origin(engines: Sequence[Engine], environment: str) -> dict[str, str]:
    """The parameters that say whose model it is: they do not change with its versions."""
    exported = engines[0].exported
    return {
        f"{_OURS}environment": environment,
        f"{_OURS}spec": exported.spec,
        f"{_OURS}variant": exported.variant,
    }


def origin_of(config: Any) -> dict[str, str]:  # noqa: ANN401 - protobuf's ModelConfig
    """The same of a configuration, as far as it has them."""
    found = config.parameters
    keys = [f"{_OURS}{each}" for each in ("environment", "spec", "variant")]
    return {key: found[key].string_value for key in keys if key in found}


def agreed(engines: Sequence[Engine]) -> Interface:
    """The interface that all engines have; UsageError where they are not to be one model."""
    if not engines:
        raise UsageError("there is no engine to export")
    first = engines[0]
    for each in engines[1:]:
        ours, theirs = each.exported, first.exported
        if (ours.spec, ours.variant) != (theirs.spec, theirs.variant):
            raise UsageError(
                f"'{theirs.spec}/{theirs.variant}' and '{ours.spec}/{ours.variant}' cannot be one "
                "model",
                hint="choose one with --variant",
            )
        if each.interface != first.interface:
            raise UsageError(
                f"the engines of '{theirs.target}' and '{ours.target}' have different inputs, "
                "outputs or profiles, and a model of Triton has one configuration",
                hint="choose one with --target, and give each a --name",
            )
    return first.interface


def model_config(
    schema: Schema,
    engines: Sequence[Engine],
    served: Served,
    before: Any | None = None,  # noqa: ANN401
) -> Any:  # noqa: ANN401
    """The configuration of a model that serves these engines as its version; it keeps what somebody
    added to the one `before` it."""
    interface = agreed(engines)
    size = batch_size(interface, served.max_batch_size)
    made = schema.model_config()
    labels: Mapping[str, str] = {}
    if before is not None:
        labels = {each.name: each.label_filename for each in before.output}
        made.CopyFrom(before)
        for name in _OWNED:
            made.ClearField(name)
        for key in [key for key in made.parameters if key.startswith(_OURS)]:
            del made.parameters[key]
    made.name = served.name
    if served.backend is None:
        made.platform, made.backend = "tensorrt_plan", "tensorrt"
    else:
        made.backend = served.backend
    # Not `latest`: after the export of an earlier state that is another one.
    made.version_policy.specific.versions.append(served.number)
    made.max_batch_size = size
    for tensor in interface.inputs:
        _describe(schema, made.input.add(), tensor, size)
    for tensor in interface.outputs:
        described = made.output.add()
        _describe(schema, described, tensor, size)
        described.label_filename = labels.get(tensor.name, "")
    group = made.instance_group.add()
    group.kind, group.count = schema.messages.ModelInstanceGroup.KIND_GPU, served.instances
    if served.backend is None:  # the one backend that knows profiles; elsewhere an error
        # All of them: Triton takes, for each batch, the one that fits its shapes best.
        group.profile.extend(str(index) for index in range(len(interface.profiles)))
    made.cc_model_filenames.update(_by_capability(engines))
    made.default_model_filename = _default(engines)
    said = origin(engines, served.environment) | {f"{_OURS}number": str(served.number)}
    for each in engines:
        said[f"{_OURS}digest.{each.exported.target}"] = each.exported.digest
        said[f"{_OURS}sha256.{each.exported.target}"] = each.stored.sha256
    for key, value in said.items():
        made.parameters[key].string_value = value
    return made


def _describe(schema: Schema, into: Any, tensor: Tensor, size: int) -> None:  # noqa: ANN401
    into.name = tensor.name
    into.data_type = schema.messages.DataType.Value(tensor.data_type)
    dims = tensor.dims[1:] if size else tensor.dims
    if not dims:  # Triton has no empty dims: requests have one element more, the engine has not
        into.reshape.SetInParent()
    into.dims.extend(dims or (1,))
    into.is_shape_tensor = tensor.shape_tensor
    into.is_non_linear_format_io = not tensor.linear


def batch_size(interface: Interface, asked: int | None = None) -> int:
    """The `max_batch_size`: of what is `asked`, if it can be; 0 is no batching, where requests have
    all dimensions.

    By itself only where Triton may put requests together along the first dimension without harm:
    it changes in all tensors and is called the same wherever it has a name, no values of shape
    tensors depend on it, and all profiles take up to as many, from one on.
    """
    if asked == 0:
        return 0
    highest = _highest(interface)
    if asked is not None:
        if not highest or asked > highest[-1] or asked < 0:
            most = (
                f"the largest of its profiles is {highest[-1]}"
                if highest
                else "the first dimension of some input or output is fixed, or it has shape tensors"
            )
            raise UsageError(
                f"max_batch_size {asked} cannot be: {most}", hint="leave --max-batch-size away"
            )
        return asked
    names = {each.dimensions[0] for each in interface.tensors if each.dims} - {None}
    ranges = [
        set(zip(_firsts(interface, index, "min"), _firsts(interface, index, "max"), strict=True))
        for index in range(len(interface.profiles))
    ]
    if not highest or len(names) > 1 or any(len(each) != 1 for each in ranges):
        return 0
    one = highest[0] == highest[-1] and min(low for each in ranges for low, _ in each) == 1
    return highest[-1] if one else 0


def _highest(interface: Interface) -> list[int]:
    """Of each profile the largest batch, rising; none where there are no batches. As Triton's
    TensorRT backend computes it: the smallest of its inputs' largest first dimensions."""
    if not interface.inputs or any(
        each.shape_tensor or each.dims[:1] != (-1,) for each in interface.tensors
    ):
        return []
    return sorted(min(_firsts(interface, index, "max")) for index in range(len(interface.profiles)))


def _firsts(interface: Interface, index: int, at: str) -> list[int]:
    """The first dimension of each input at the end of a profile's ranges."""
    found: list[int] = []
    for tensor in interface.inputs:
        ranges = interface.profiles[index].get(tensor.name)
        shape = None if ranges is None else ranges.shape
        dims = tensor.dims if shape is None else getattr(shape, at)
        found.extend(dims[:1])
    return found


def _by_capability(engines: Sequence[Engine]) -> dict[str, str]:
    """Which file GPUs of a compute capability load; UsageError where that would be two."""
    owners: dict[str, Engine] = {}
    for engine in engines:
        for capability in engine.capabilities:
            if (other := owners.setdefault(capability, engine)) is not engine:
                raise _ambiguous(other, engine, f"GPUs of compute capability {capability}")
    return {capability: engine.file_name for capability, engine in owners.items()}


def _default(engines: Sequence[Engine]) -> str:
    """What GPUs of any other compute capability load: the portable engine, or the only one, of
    which TensorRT says why not. Of several, none."""
    portable = [each for each in engines if not each.capabilities]
    if len(portable) > 1:
        raise _ambiguous(portable[0], portable[1], "all GPUs since Ampere")
    if portable:
        return portable[0].file_name
    return engines[0].file_name if len(engines) == 1 else ""


def _ambiguous(one: Engine, other: Engine, what: str) -> EngineForgeError:
    return UsageError(
        f"the engines of '{one.exported.target}' and '{other.exported.target}' are both for "
        f"{what}, and Triton tells GPUs apart by that alone",
        hint=f"choose one: --target {one.exported.target}",
    )
