"""`engineforge attest`: who says what of an engine; approvals, results and keys."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from engineforge.cli import world
from engineforge.cli.signing import environments, signing_key, who
from engineforge.digest import digest_file
from engineforge.errors import EngineForgeError, PromotionRefused, SpecError, Untrusted, UsageError
from engineforge.project.promotion import ENVIRONMENTS, Environments, Promoter
from engineforge.promotion.attest.attestation import sign_attestation
from engineforge.promotion.attest.results import APPROVAL, Approval
from engineforge.promotion.attest.statement import Statement, of_engine
from engineforge.promotion.environment import Opened
from engineforge.promotion.ledger import Listed
from engineforge.promotion.promoting import Who
from engineforge.promotion.verifying import Verified, verified
from engineforge.report import attested as report
from engineforge.report.promotion import plain


def run(args: argparse.Namespace) -> int:
    actions: dict[str, Callable[[argparse.Namespace], int]] = {
        "verify": _verify,
        "approve": lambda args: _attach(args, _approval),
        "results": lambda args: _attach(args, _results),
        "key": _make_key,
    }
    return actions[args.action](args)


def _verify(args: argparse.Namespace) -> int:
    known = environments(Path(args.environments))
    path = Path(args.what)
    found = _of_file(known, path) if path.is_file() else _of_reference(known, args.what)
    if args.json:
        world.print_json([report.verified_data(each) for each in found])
    else:
        for each in found:
            for line in plain(report.verified_lines(each)):
                print(line)
    return Untrusted.exit_code if any(each.lacking for each in found) else 0


def _of_file(known: Environments, path: Path) -> list[Verified]:
    engine = digest_file(path)
    found = []
    for name in known.names:
        opened = known.open(name)
        try:
            specs = opened.specs()
        except EngineForgeError as error:  # another one may have it
            world.say(f"note: {name} could not be asked: {error}")
            continue
        for spec in specs:
            try:
                state = opened.state(spec)
            except EngineForgeError as error:
                world.say(f"note: {name} could not be asked for '{spec}': {error}")
                continue
            for each in state.engines if state else ():
                if each.engine == engine and state is not None:
                    found.append(verified(opened, state, each, world.now()))
    if not found:
        raise Untrusted(
            f"no environment has '{path}' ({engine}) now",
            hint=f"asked {', '.join(known.names)}; engineforge history tells of earlier ones, and "
            "engineforge show of those in the cache",
        )
    return found


def _of_reference(known: Environments, reference: str) -> list[Verified]:
    name, slash, spec = reference.partition("/")
    if not slash:
        raise UsageError(
            f"'{reference}' is no file, and no spec of an environment",
            hint="such as staging/ocr-detector",
        )
    opened = known.open(name)
    state = opened.state(spec)
    if state is None:
        raise UsageError(
            f"nothing of '{spec}' was ever promoted to {name}",
            hint=f"it has {', '.join(opened.specs()) or 'nothing'}",
        )
    return [verified(opened, state, each, world.now()) for each in state.engines]


Stated = Callable[[Promoter, str, str, Listed, Who], list[Statement]]


def _attach(args: argparse.Namespace, stated: Stated) -> int:
    """Attach what `stated` gives to each engine where the environment takes it from."""
    specs = world.paths(args)
    done = []
    with world.project(args, specs) as project:
        known = environments(project.root / ENVIRONMENTS)
        destination = known.open(args.to)
        signer = who(args, signing_key(args))
        if signer.key.public not in destination.keys.values():
            raise PromotionRefused(
                f"the key is of no signer of {args.to}, and nothing that it signs counts there",
                hint=f"signers of {args.to} in environments.yaml: {', '.join(destination.keys)}",
            )
        promoter = Promoter(
            project,
            specs,
            world.selection(args),
            environments=known,
            key=signer.key,
        )
        problems = world.say_problems(promoter.plan.problems)
        for spec in promoter.specs:
            for opened, engine in promoter.in_source(spec, destination.environment):
                made = stated(promoter, spec, args.to, engine, signer)
                count = _attached(opened, destination, spec, engine, made, signer=signer)
                done.append(
                    {
                        "spec": spec,
                        "variant": engine.variant,
                        "target": engine.target,
                        "environment": opened.environment.name,
                        "attached": count,
                    }
                )
                if not args.json:
                    what = f"{count} attached" if count else "nothing new to attach"
                    print(f"{spec}/{engine.name} in {opened.environment.name}: {what}")
    if args.json:
        world.print_json(done)
    return SpecError.exit_code if problems else 0


def _attached(
    opened: Opened,
    destination: Opened,
    spec: str,
    engine: Listed,
    statements: list[Statement],
    *,
    signer: Who,
) -> int:
    """How many of the statements are new, and attached now, in the words of the destination's
    keys: what it does not count is as good as not there."""
    state = opened.state(spec)
    if state is None or engine.manifest not in state.described:
        raise Untrusted(f"{spec}/{engine.name} was replaced meanwhile", hint="run again")
    mine = {name for name, key in destination.keys.items() if key == signer.key.public}
    said = opened.attestations(engine, destination.keys)
    there = {each.statement.to_bytes() for each in said if mine & each.signed_by}
    new = [each for each in statements if each.to_bytes() not in there]
    for each in new:
        opened.attach(opened.describe(spec, engine), sign_attestation(each, signer.key))
    return len(new)


def _approval(_: Promoter, spec: str, to: str, engine: Listed, signer: Who) -> list[Statement]:
    approval = Approval(
        environment=to,
        spec=spec,
        variant=engine.variant,
        target=engine.target,
        by=signer.by,
        time=signer.now,
        reason=signer.reason,
    )
    return [
        of_engine(
            APPROVAL,
            approval.to_predicate(),
            label=engine.name,
            manifest=engine.manifest,
            engine=engine.engine,
        )
    ]


def _results(promoter: Promoter, spec: str, _: str, engine: Listed, __: Who) -> list[Statement]:
    return promoter.known_here(spec, engine)


def _make_key(args: argparse.Namespace) -> int:
    from engineforge.promotion.attest.keys import generate

    secret, public = (Path(f"{args.file}{suffix}") for suffix in (".key", ".pub"))
    if not secret.parent.is_dir():
        raise UsageError(
            f"there is no folder '{secret.parent}'", hint=f"mkdir -p '{secret.parent}'"
        )
    for path in (secret, public):
        if path.exists():
            raise UsageError(f"'{path}' is there already", hint="give another name")
    private_pem, public_pem = generate(
        args.kind, password=os.environ.get("ENGINEFORGE_KEY_PASSWORD")
    )
    handle = os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(private_pem)
    public.write_bytes(public_pem)
    print(f"{secret}: the private key, to be kept secret\n{public}: for signers in {ENVIRONMENTS}")
    return 0
