"""`engineforge init`: a spec for a model, with ranges, variants and targets to begin with."""

from __future__ import annotations

import argparse
from pathlib import Path

from engineforge.cli import drafts, world
from engineforge.errors import SpecError, UsageError

_OTHER_MODELS = {
    ".pt2": "source: {pytorch: {program: FILE.pt2}}",
    ".pt": "source: {pytorch: {torchscript: FILE.pt}}",
    ".pth": "source: {pytorch: {module: 'nets:make', weights: FILE.pth}}",
    ".safetensors": "source: {pytorch: {module: 'nets:make', weights: FILE.safetensors}}",
    ".keras": "source: {tensorflow: {keras: FILE.keras}}",
    ".h5": "source: {tensorflow: {keras: FILE.h5}}",
    ".pb": "source: {tensorflow: {saved_model: FOLDER}}",
    ".joblib": "source: {sklearn: {model: FILE.joblib}}",
    ".pkl": "source: {sklearn: {model: FILE.pkl}}",
    ".engine": "an engine is no model: `engineforge show` says what it is",
    ".plan": "an engine is no model: `engineforge show` says what it is",
    ".trt": "an engine is no model: `engineforge show` says what it is",
}


def run(args: argparse.Namespace) -> int:
    model = Path(args.model)
    _must_be_onnx(model)
    # These load ONNX and NumPy.
    from engineforge.drafting.model import spec
    from engineforge.stages.precision import tools
    from engineforge.stages.sources.onnx import inspect
    from engineforge.stages.sources.shape_inputs import shape_inputs

    file = Path(args.output) if args.output else drafts.SPECS / f"{model.stem}.yaml"
    if file.is_dir() or str(args.output or "").endswith("/"):
        file = file / f"{model.stem}.yaml"
    if file.suffix not in (".yaml", ".yml"):
        raise UsageError(f"expected a name that ends in .yaml, found '{file}'")
    if file.exists():
        drafts.write_new(file, "")
    interface = inspect(model)
    uses = shape_inputs(model)
    targets = drafts.Targets(file.parent, args.target)
    text = spec(
        drafts.relative(model, file.parent),
        interface,
        uses,
        targets=list(targets.targets),
        no_fp16=tools.missing("onnxruntime"),
    )
    wrote = targets.write()
    drafts.write_new(file, text)
    problems = _problems(args, file)
    drafts.say_next(file, wrote_targets=targets.file if wrote else None)
    if problems is not None:
        raise problems
    if args.json:
        world.print_json({"spec": str(file), "targets": str(targets.file) if wrote else None})
    return 0


def _problems(args: argparse.Namespace, file: Path) -> SpecError | None:
    """What `engineforge check` finds in what was written: a model may be what no target can run."""
    from engineforge.project.plans import Selection

    with world.project(args, [file]) as project:
        plan = project.plan([file], Selection(variants=frozenset(), targets=frozenset()))
    return SpecError(plan.problems) if plan.problems else None


def _must_be_onnx(model: Path) -> None:
    if not model.exists():
        raise UsageError(f"'{model}' does not exist", hint="give an ONNX file")
    if model.is_dir():
        saved = (model / "saved_model.pb").is_file()
        hint = (
            f"in a spec: source: {{tensorflow: {{saved_model: {model.name}}}}}"
            if saved
            else "give the ONNX file in it"
        )
        raise UsageError(f"'{model}' is a folder, and init looks at ONNX files", hint=hint)
    other = _OTHER_MODELS.get(model.suffix.lower())
    if other is not None:
        kind = "in a spec: " if other.startswith("source") else ""
        raise UsageError(f"'{model}' is no ONNX file, by its name", hint=f"{kind}{other}")
