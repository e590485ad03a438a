"""`engineforge export triton`: engines of an environment, verified, as a model repository."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from engineforge.cli import world
from engineforge.cli.signing import environments
from engineforge.errors import EngineForgeError, UsageError
from engineforge.promotion.environment import Opened
from engineforge.promotion.ledger import Listed
from engineforge.promotion.placing import manifest_of
from engineforge.promotion.pulling import Wanted, pull
from engineforge.promotion.state import State
from engineforge.promotion.triton.engines import Exported
from engineforge.promotion.triton.repository import Written, export
from engineforge.store.manifest import Manifest


def run(args: argparse.Namespace) -> int:
    if args.name is not None and len(args.what) > 1:
        raise UsageError("--name is of one model", hint="export them one after another")
    known = environments(Path(args.environments))
    repository = Path(args.folder)
    done = []
    for what in args.what:
        name, slash, spec = what.partition("/")
        if not (name and slash and spec):
            raise UsageError(f"'{what}' is no ENV/SPEC", hint="such as staging/ocr-detector")
        opened = known.open(name)
        state = opened.state(spec)
        if state is None:
            raise UsageError(f"nothing of '{spec}' was ever promoted to {name}")
        written = _export(args, opened, state, repository)
        done.append(
            {
                "model": str(written.model),
                "version": state.number,
                "written": [str(each) for each in written.written],
                "removed": [str(each) for each in written.removed],
                "needs": list(written.needs),
            }
        )
        if not args.json:
            what_now = "written" if written.written else "nothing to do"
            print(f"{written.model}  version {state.number}, {what_now}")
            for need in written.needs:
                world.say(f"note: {need}")
    if args.json:
        world.print_json(done)
    return 0


def _export(args: argparse.Namespace, opened: Opened, state: State, repository: Path) -> Written:
    chosen = _chosen(args, state)
    # Beside the repository, where there is room for it: /tmp may be memory.
    beside = repository.absolute().parent
    if not beside.is_dir():
        raise UsageError(f"there is no folder '{beside}'", hint=f"mkdir -p '{beside}'")
    with tempfile.TemporaryDirectory(prefix=".engineforge-", dir=beside) as scratch:
        return export(
            # Folders by number: what a target is called, its ledger says.
            [
                _fetched(opened, state, each, Path(scratch) / str(i), repository.absolute())
                for i, each in enumerate(chosen)
            ],
            repository=repository,
            name=args.name or state.spec.replace("/", "-"),
            number=state.number,
            environment=state.environment,
            keep=args.keep,
            instances=args.instances,
            max_batch_size=args.max_batch_size,
            backend=args.backend,
        )


def _chosen(args: argparse.Namespace, state: State) -> Sequence[Listed]:
    """The engines of one variant, one for each target."""
    found = [
        each
        for each in state.engines
        if (not args.variant or each.variant in args.variant)
        and (not args.target or each.target in args.target)
    ]
    variants = sorted({each.variant for each in found})
    if not found:
        there = ", ".join(each.name for each in state.engines)
        raise UsageError(f"{state.environment} has no such engine of '{state.spec}'", hint=there)
    if len(variants) > 1:
        raise UsageError(
            f"'{state.spec}' has several variants in {state.environment}, and a model is one",
            hint=f"--variant {' | '.join(variants)}",
        )
    return found


def _fetched(
    opened: Opened, state: State, engine: Listed, folder: Path, repository: Path
) -> Exported:
    """An engine, pulled for this repository: what was exported to it before is remembered."""
    folder.mkdir()
    wanted = Wanted(
        spec=state.spec,
        output=folder,
        variant=engine.variant,
        target=engine.target,
        # Outside the repository, where Triton would take it for a model's.
        remembered=repository.with_name(f".{repository.name}.pulled.json"),
    )
    pulled = pull(opened, wanted, now=world.now(), said=world.say)
    if pulled.number != state.number:
        raise EngineForgeError(f"'{state.spec}' was promoted meanwhile", hint="run again")
    return Exported(
        spec=state.spec,
        variant=engine.variant,
        target=engine.target,
        digest=engine.manifest,
        manifest=Manifest.from_bytes(manifest_of(pulled.path).read_bytes()),
        file=pulled.path,
    )
