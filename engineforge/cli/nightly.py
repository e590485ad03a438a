"""`engineforge nightly`: everything that keeps engines fresh, in one command."""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from engineforge import __version__
from engineforge.cli import gc, signing, world
from engineforge.cli.lock import lacking
from engineforge.cli.progress import progress
from engineforge.errors import EngineForgeError, SpecError, UsageError
from engineforge.nightly import github, message, text, webhook
from engineforge.nightly.ending import End
from engineforge.nightly.folder import EVENTS, Nights
from engineforge.nightly.log import NightLog
from engineforge.nightly.means import Means
from engineforge.nightly.night import Night
from engineforge.nightly.promoting import first
from engineforge.nightly.steps import Steps
from engineforge.project.folder import ENVIRONMENTS, find_root
from engineforge.project.plans import Running
from engineforge.promotion.attest.keys import SigningKey
from engineforge.promotion.promoting import Who
from engineforge.report.page.document import About
from engineforge.spec.validate import did_you_mean

Signer = Callable[[], tuple[SigningKey, Who]]

# What code of the project's own may run in children is not told these.
_SECRETS = (webhook.VARIABLE, "ENGINEFORGE_KEY", "ENGINEFORGE_KEY_PASSWORD")


def run(args: argparse.Namespace) -> int:
    began = time.monotonic()
    url = args.webhook or os.environ.get(webhook.VARIABLE) or None
    if url is not None:
        webhook.must_be_url(url)
    gc.policy(args)
    root = find_root(world.paths(args))
    not_promoted = _not_promoted(args, root)
    signer = _signer(args) if not_promoted is None else None
    nights = Nights(Path(args.output))
    about, now = world.about(root), world.now()
    me = f"process {os.getpid()} on {about['host']} since {now.isoformat(timespec='seconds')}"
    night = Night(started=now, project=root.resolve().parent.name or "specs")
    with nights.begun(now, me) as folder, NightLog(folder / EVENTS, world.now) as log:
        said = {"project": night.project, "version": __version__, "host": about["host"]}
        log.say("night", {**said, "git": about.get("git", "")})
        end = End(nights, folder, night, log, keep=args.keep_nights, bug=traceback.print_exception)
        with _commands_stopped():
            try:
                _carried_out(
                    args, night, log, about=about, not_promoted=not_promoted, signer=signer
                )
            except KeyboardInterrupt:
                night.interrupted = True
            end.look_back()
            end.write()
            told = _told(night, url)
            end.close(time.monotonic() - began)
            _print(args, night, folder, told)
        _on_github(night)
    return night.code


def _carried_out(
    args: argparse.Namespace,
    night: Night,
    log: NightLog,
    *,
    about: dict[str, object],
    not_promoted: str | None,
    signer: Signer | None,
) -> None:
    root = find_root(world.paths(args))
    environment = {k: v for k, v in world.environment(args).items() if k not in _SECRETS}
    specs = world.specs(args, environ=environment)
    with specs.open() as project:
        means = Means(
            specs=specs,
            project=project,
            selection=world.selection(args),
            running=Running(jobs=args.jobs, timeout=args.timeout, keep_going=True),
            about=About(
                time=night.started.isoformat(timespec="seconds"),
                project=night.project,
                version=__version__,
                git=str(about.get("git", "")),
            ),
            lock=lambda: lacking(root),
            watch=lambda expected: progress(sys.stderr, os.environ, expected),
            environments=lambda: signing.environments(root / ENVIRONMENTS),
            not_promoted=not_promoted,
            to=args.to,
            signer=signer,
            collect=None if args.no_gc else lambda: gc.summary(args, gc.collected(args)),
            now=world.now,
            clock=time.monotonic,
            bug=traceback.print_exception,
        )
        Steps(means, night, log).run()


def _not_promoted(args: argparse.Namespace, root: Path) -> str | None:
    """Why nothing is promoted, which is asked for or in the nature of the project; None where
    something is. UsageError where it is asked for what there is not."""
    file = root / ENVIRONMENTS
    if args.no_promote:
        if args.to is not None:
            raise UsageError("--no-promote promotes nothing, and --to would", hint="choose one")
        return "--no-promote"
    if not file.is_file():
        if args.to is not None or args.key is not None:
            raise UsageError(
                f"there is no '{file}', which names what engines are promoted to",
                hint="leave out --to and --key, or `engineforge schema environments`",
            )
        return f"there is no '{file}'"
    try:
        known = signing.environments(file)
    except SpecError:  # which the night says, and builds all the same
        return None
    if args.to is None:
        first(known)
    elif args.to not in known.names:
        hint = did_you_mean(args.to, known.names)
        raise UsageError(f"there is no environment '{args.to}'", hint=hint)
    return None


def _signer(args: argparse.Namespace) -> Signer:
    """UsageError where there is no key, or none that can be used. That a KMS cannot be asked ends
    no night: its promotion fails."""
    try:
        key = signing.signing_key(args)
    except UsageError:
        raise
    except EngineForgeError as error:
        failure = error

        def fail() -> tuple[SigningKey, Who]:
            raise failure

        return fail
    if key is None:
        raise UsageError(
            "what is promoted is signed, and there is no key",
            hint="--key FILE, or $ENGINEFORGE_KEY; or --no-promote",
        )
    return lambda: (key, signing.who(args, key))


def _told(night: Night, url: str | None) -> str | None:
    """What became of telling the webhook; None where there is none, or nothing to tell."""
    if url is None or not (night.code or night.newly_stale):
        return None
    made = message.message(night, text.headline(night))
    why = webhook.post(url, made, environment=os.environ, wait=time.sleep)
    if why is not None:
        night.notes.append(f"the webhook was not told: {why}")
        return f"not told: {why}"
    return "told"


def _print(args: argparse.Namespace, night: Night, folder: Path, told: str | None) -> None:
    if args.json:
        world.print_json(text.as_json(night, str(folder), told))
    else:
        for line in text.lines(night):
            print(line)
    sys.stdout.flush()
    world.say_notes(night.notes)
    world.say(f"{text.headline(night)}: '{folder}', exit code {night.code}")


@contextlib.contextmanager
def _commands_stopped() -> Iterator[None]:
    """What models, specs and logs say meanwhile is no command to GitHub's runner."""
    if not _is_on_github():
        yield
        return
    token = secrets.token_hex(16)
    print(f"::stop-commands::{token}", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        sys.stdout.flush()
        print(f"::{token}::", file=sys.stderr, flush=True)


def _is_on_github() -> bool:
    return os.environ.get("GITHUB_ACTIONS") == "true"


def _on_github(night: Night) -> None:
    if not _is_on_github():
        return
    # On stderr, which the runner reads as well: stdout may be JSON.
    for line in github.commands(night, os.environ.get("GITHUB_WORKSPACE") or str(Path.cwd())):
        print(line, file=sys.stderr, flush=True)
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        try:
            with Path(path).open("a", encoding="utf-8") as file:
                file.write(github.summary(night, text.headline(night)))
        except OSError as error:
            world.say(f"note: the summary of this step cannot be written: {error.strerror}")
