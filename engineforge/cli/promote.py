"""`engineforge promote`: engines that pass an environment's gates go there."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from engineforge.cli import world
from engineforge.cli.signing import environments, signing_key, who
from engineforge.errors import EngineForgeError, PromotionRefused, SpecError, StoreCorrupt
from engineforge.project.promotion import ENVIRONMENTS, Offers, Promoter
from engineforge.promotion.environment import Opened
from engineforge.promotion.promoting import Judged, Promoted, Who, judge, promote
from engineforge.promotion.retention import expire
from engineforge.report import promotion as report
from engineforge.report import text

_PROGRESS_BYTES = 256 << 20


def run(args: argparse.Namespace) -> int:
    specs = world.paths(args)
    done: list[dict[str, Any]] = []
    code = 0
    with world.project(args, specs) as project:
        known = environments(project.root / ENVIRONMENTS)
        destination = known.open(args.to)
        key = signing_key(args)
        signer = None if args.dry_run else who(args, key)
        promoter = Promoter(project, specs, world.selection(args), environments=known, key=key)
        world.say_notes(promoter.plan.notes)
        if world.say_problems(promoter.plan.problems):
            code = SpecError.exit_code
            if not args.keep_going:
                return code
        for spec in promoter.specs:
            try:
                refused = _one(args, promoter, destination, spec, done, signer=signer)
            except (PromotionRefused, StoreCorrupt) as error:
                done.append({"spec": spec, "environment": args.to, "error": str(error)})
                world.say(f"{spec}: {error}")
                refused = error.exit_code
            code = code or refused
            if refused and not args.keep_going:
                break
    if args.json:
        world.print_json({"specs": done})
    return code


def _one(
    args: argparse.Namespace,
    promoter: Promoter,
    destination: Opened,
    spec: str,
    done: list[dict[str, Any]],
    *,
    signer: Who | None,
) -> int:
    """Without a signer the gates are only asked."""
    environment = destination.environment
    offers = promoter.offers(spec, environment)
    world.say_notes(offers.notes)
    judged = judge(
        destination,
        spec,
        offers.offered,
        keeps=offers.keeps,
        overridden=args.override,
        now=world.now(),
    )
    promoted = None
    if signer is not None and not judged.refused:
        promoted = _carried_out(destination, judged, offers, signer)
    done.append(report.promoted_data(environment.name, judged, promoted))
    if not args.json:
        for line in report.plain(report.promoted_lines(environment.name, judged, promoted)):
            print(line, file=sys.stderr if judged.refused else sys.stdout)
    return PromotionRefused.exit_code if judged.refused else 0


def _carried_out(destination: Opened, judged: Judged, offers: Offers, signer: Who) -> Promoted:
    told = 0

    def moved(done: int, total: int) -> None:
        # Only what takes long is told, and not too often.
        nonlocal told
        if total >= _PROGRESS_BYTES and (done - told >= _PROGRESS_BYTES or done < told):
            told = done
            world.say(f"{judged.spec}: {text.size(done)} of {text.size(total)}")

    promoted = promote(destination, judged, signer, origin=offers.origin, told=moved)
    try:
        expire(destination, promoted.state, signer.now)
    except EngineForgeError as error:  # what was asked for is done
        world.say(f"note: no earlier state of '{judged.spec}' was untagged: {error}")
    return promoted
