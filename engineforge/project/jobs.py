"""From a cell of a matrix to a job: what its keys depend on and no spec says is looked up here.

Libraries and samples by content, the tool and its versions, the nodes that patterns mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from engineforge.backends import TYPING
from engineforge.backends.capability import lacks, needs, unknown_capabilities
from engineforge.backends.library import api_of
from engineforge.backends.options import BY_NAME, honoured, refusals, resolve
from engineforge.digest import Digest, digest_value
from engineforge.errors import EngineForgeError, Problem
from engineforge.plan.keys import (
    CalibrationRecipe,
    NetworkKey,
    OnnxKey,
    PlanKey,
    SamplesRecipe,
    TypedRecipe,
    reading,
    recipe,
)
from engineforge.project.sources import Found, network_key
from engineforge.samples import BadSamples, data_files, how_read
from engineforge.spec.check import check_cell
from engineforge.spec.load import Place
from engineforge.spec.matrix import Cell
from engineforge.spec.model import (
    AccuracyCheck,
    Calibration,
    ImageFolder,
    ModelInterface,
    Precision,
)
from engineforge.stages.precision import tools
from engineforge.stages.sources import CANONICAL_FORMAT
from engineforge.store.index import Index
from engineforge.worker.importer import Importer
from engineforge.worker.job import Files, Job


@dataclass(slots=True)
class Jobs:
    """The jobs of one spec; what is wrong with its variants is in `problems`.

    `hashed` are the files of the model; with `checks` the data of accuracy checks is hashed too,
    and with `data_may_miss` what is wrong with that is in `notes`.
    """

    index: Index
    importer: Importer
    found: Found
    hashed: Files
    interface: ModelInterface
    folder: Path
    checks: bool
    data_may_miss: bool
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _matched: dict[tuple[str, ...], Mapping[str, Any]] = field(default_factory=dict)

    def add(self, cell: Cell) -> Job | None:
        """The job of a variant; None where it has problems."""
        before = len(self.problems)
        self.problems += check_cell(cell, self.interface)
        precision = with_tool(cell.variant.precision)
        variant = replace(cell.variant, precision=precision)
        self.problems += tool_problems(cell, precision)
        self.problems += _plugin_problems(cell, self.folder)
        features = needs(self.interface, precision, self._kept(cell))
        self.problems += _backend_problems(cell, features)
        calibrated, files = self._samples(precision.calibration, cell.keys.get("calibration"))
        check = variant.accuracy if self.checks else None
        so_far = len(self.problems)
        checked, checked_on = self._samples(check, cell.accuracy)
        if self.data_may_miss:
            self.notes += map(str, self.problems[so_far:])
            del self.problems[so_far:]
        if len(self.problems) > before:
            return None
        builder, chain = resolve(variant.builder, variant.target), variant.target.toolchain
        libraries = {o: [self.folder / each for each in of] for o, of in _plugins(cell)}
        # What a library is called, and where it is, says nothing of what it does.
        hashed = {each: self.index.hashed(each) for of in libraries.values() for each in of}
        digests = {o: [hashed[each][0] for each in of] for o, of in libraries.items()}
        paths = {o: [str(each.absolute()) for each in of] for o, of in libraries.items()}
        external = {
            each: self.hashed[self.found.model.parent / each][0] for each in self.interface.external
        }
        return Job(
            variant=variant,
            key=PlanKey(
                onnx=self._imported(external),
                typed=typed_recipe(precision, calibrated),
                engine=recipe(
                    variant,
                    {**builder, **digests},
                    typing=None if api_of(chain.backend, chain.version).strongly_typed else TYPING,
                ),
            ),
            builder={**builder, **paths},
            model=self.found.model,
            called=self.found.called,
            made=self.found.made,
            network=self.found.network,
            external=external,
            interface=self.interface,
            source=self.hashed,
            libraries=hashed,
            calibrated_on=files,
            folder=self.folder.absolute(),
            check=checked,
            checked_on=checked_on,
        )

    def _imported(self, external: Mapping[str, Digest]) -> OnnxKey | NetworkKey:
        if self.found.network is not None:
            return network_key(self.found.network, self.hashed)
        return OnnxKey(
            canonical=CANONICAL_FORMAT,
            model=self.hashed[self.found.model][0],
            external=tuple(external.values()),
        )

    def _samples(
        self, given: Calibration | AccuracyCheck | None, place: Place | None
    ) -> tuple[SamplesRecipe | None, Files]:
        """A data set by content, and its files; None where there is none, or a problem."""
        if given is None or place is None:
            return None, {}
        try:
            files = {path: self.index.hashed(path) for path in data_files(given.data, self.folder)}
        except BadSamples as error:
            self.problems.append(place.problem(error.args[0], error.hint, "data"))
            return None, {}
        except OSError as error:
            message = f"'{error.filename}' cannot be read: {error.strerror}"
            self.problems.append(place.problem(message, None, "data"))
            return None, {}
        return samples_recipe(given, files, self.folder), files

    def _kept(self, cell: Cell) -> str | None:
        """The first matrix product that `keep_fp32` means; each pattern must mean something."""
        patterns = cell.variant.precision.keep_fp32
        if not patterns:
            return None
        if patterns not in self._matched:
            request = {"op": "patterns", "model": self.found.model, "patterns": list(patterns)}
            try:
                self._matched[patterns] = self.importer.ask(request)
            except EngineForgeError as error:
                self.problems.append(cell.keys["keep_fp32"].problem(error.args[0], error.hint))
                return None
        found = self._matched[patterns]
        for pattern, hint in found["unmatched"].items():
            message = f"the model has no node that '{pattern}' means"
            self.problems.append(cell.keys["keep_fp32"].problem(message, hint))
        product: str | None = found["product"]
        return product


def with_tool(precision: Precision) -> Precision:
    """The same with the tool that is the default for it, whatever is installed here, and without
    data that this tool makes no use of."""
    tool = precision.tool or tools.default_tool(precision.name)
    used = precision.quantizes or (tool is not None and tools.TOOLS[tool].casts_by_data)
    return replace(precision, tool=tool, calibration=precision.calibration if used else None)


def tool_problems(cell: Cell, precision: Precision) -> Iterator[Problem]:
    """What the tool of a variant cannot do."""
    if precision.tool is None:
        return
    tool = tools.TOOLS[precision.tool]
    if precision.name not in tool.precisions:
        others = [name for name, each in tools.TOOLS.items() if precision.name in each.precisions]
        message = f"'{precision.tool}' does not convert to {precision.name}"
        yield cell.keys["tool"].problem(message, f"tool: {' or '.join(others)}")
        return
    if precision.quantizes and precision.high_precision not in tool.high_precisions:
        message = f"'{precision.tool}' has no high_precision '{precision.high_precision}'"
        hint = f"it has {', '.join(tool.high_precisions)}"
        yield cell.keys["high_precision"].problem(message, hint)
    if "calibration" in cell.own and not (precision.quantizes or tool.casts_by_data):
        message = f"'{precision.tool}' makes no use of data for {precision.name}"
        hint = "remove it, or let it show what overflows: tool: modelopt"
        yield cell.keys["calibration"].problem(message, hint)
    calibration = precision.calibration
    methods = tool.methods.get(precision.name, ())
    if calibration is not None and precision.quantizes and calibration.method not in methods:
        yield cell.keys["calibration"].problem(
            f"'{precision.tool}' has no calibration method '{calibration.method}' for "
            f"{precision.name}",
            f"it has {', '.join(methods)}",
            "method",
        )


def typed_recipe(precision: Precision, calibrated: SamplesRecipe | None) -> TypedRecipe | None:
    """The recipe of the typed stage, of a precision with its tool; None where it has none."""
    if not precision.converts:
        return None
    given, calibration = precision.calibration, None
    if given is not None and calibrated is not None:
        calibration = CalibrationRecipe(
            data=calibrated, method=given.method, percentile=given.percentile
        )
    return TypedRecipe(
        format=tools.FORMAT,
        precision=precision.name,
        tool=precision.tool,
        versions=tools.versions(precision.tool, precision.name) if precision.tool else {},
        keep_fp32=precision.keep_fp32,
        high_precision=precision.high_precision,
        block_size=precision.block_size,
        sparsity=precision.sparsity,
        keep_io_types=precision.keep_io_types,
        calibration=calibration,
    )


def samples_recipe(given: Calibration | AccuracyCheck, files: Files, folder: Path) -> SamplesRecipe:
    """The samples of a data set by the content of its files, in their order."""
    content: list[object] = [digest for digest, _ in files.values()]
    if isinstance(given, AccuracyCheck) and isinstance(given.data, ImageFolder):
        # Which sub-folder an image is in is its class; what that is called is not.
        within = [path.relative_to(folder / given.data.path).parts[0] for path in files]
        classes = sorted(set(within))
        content += [classes.index(each) for each in within]
    return SamplesRecipe(
        files=digest_value(content),
        reading={**reading(given.data), **how_read(given.data)},
        samples=given.samples,
        seed=given.seed,
    )


def has_plugins(cell: Cell) -> bool:
    return next(_plugins(cell), None) is not None


def _plugins(cell: Cell) -> Iterator[tuple[str, list[str]]]:
    """Each option whose value is plugin libraries, relative to the spec."""
    for name, value in cell.variant.builder.items():
        if BY_NAME[name].kind == "plugin" and isinstance(value, list):
            yield name, value


def _plugin_problems(cell: Cell, folder: Path) -> Iterator[Problem]:
    known = {option.name for option in honoured(cell.variant.target)}
    for option, libraries in _plugins(cell):
        for each in libraries if option in known else ():
            if not (folder / each).is_file():
                yield cell.builder[option].problem(f"the plugin library '{each}' does not exist")


def _backend_problems(cell: Cell, features: Mapping[str, str]) -> list[Problem]:
    target = cell.variant.target
    refused = refusals(cell.variant.builder, target)
    lacking = (*unknown_capabilities(target), *lacks(features, target))
    return [
        *(cell.builder[each.option].problem(each.message, each.hint) for each in refused),
        *(cell.target.problem(each.message, each.hint) for each in lacking),
    ]
