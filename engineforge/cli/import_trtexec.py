"""`engineforge import-trtexec`: specs of command lines of trtexec."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engineforge.cli import drafts, world
from engineforge.drafting.draft import Draft, Note, Untranslated
from engineforge.drafting.shell import Command, Unreadable, commands
from engineforge.drafting.text import comment, lines
from engineforge.errors import EngineForgeError, HostUnfit, UsageError

if TYPE_CHECKING:
    from engineforge.spec.model import ModelInterface

_ORDER = ("to do", "left out", "differs", "measuring", "elsewhere", "nothing")
_IN_SPEC = ("to do", "left out", "differs")


def run(args: argparse.Namespace) -> int:
    found = _commands(args)
    folder, file = _where(args, found)
    targets = _targets(args, folder)
    drafts_, refused = [], []
    for command in found:
        try:
            drafts_.append(_draft(args, command, folder, targets))
        except Untranslated as error:
            refused.append((command, error))
    if args.json:
        world.print_json(_document(drafts_, refused))
    written = _written(args, drafts_, folder, file, targets)
    for draft in drafts_:
        _say(draft, written.get(draft.name))
    for command, why in refused:
        world.say(f"not translated: {command}")
        for reason in why.reasons:
            world.say(f"  {reason}")
        if why.hint:
            world.say(f"hint: {why.hint}")
    return UsageError.exit_code if refused else 0


def _commands(args: argparse.Namespace) -> list[Command]:
    words: list[str] = args.command
    if not words or words == ["-"]:
        if sys.stdin.isatty():
            raise UsageError(
                "no command line was given",
                hint="give one in quotes, or a script: engineforge import-trtexec < build.sh",
            )
        text = sys.stdin.read()
    else:
        _must_end_with_command(words)
        text = words[0] if len(words) == 1 else shlex.join(words)
    try:
        found = commands(text)
    except Unreadable as error:
        raise UsageError(f"no shell would read this: {error}") from error
    if not found:
        raise UsageError(
            "found no call of trtexec in it",
            hint="expected a line such as: trtexec --onnx=model.onnx --fp16",
        )
    return found


def _must_end_with_command(words: Sequence[str]) -> None:
    """UsageError for options behind a command line in quotes, which nobody would read."""
    first, *rest = words
    behind = next((at for at, word in enumerate(rest) if word.startswith("-")), None)
    if behind is None or not any(map(str.isspace, first)):
        return
    with contextlib.suppress(Unreadable):
        if commands(first):
            raise UsageError(
                f"'{shlex.join(rest[behind:])}' stands behind the command line",
                hint="options come before it: engineforge import-trtexec -o specs 'trtexec …'",
            )


def _where(args: argparse.Namespace, found: Sequence[Command]) -> tuple[Path, Path | None]:
    """The folder that specs are for, and the one file that was asked for, if one was."""
    if args.output is None:
        return drafts.SPECS, None
    output = Path(args.output)
    if output.suffix in (".yaml", ".yml") and not output.is_dir():
        if len(found) > 1:
            raise UsageError(
                f"found {len(found)} commands, and each is a spec", hint="give a folder to -o"
            )
        return output.parent, output
    return output, None


def _targets(args: argparse.Namespace, folder: Path) -> drafts.Targets | None:
    try:
        return drafts.Targets(folder, args.target)
    except HostUnfit as error:
        # A translation is made anywhere; only what is written must say where it is for.
        if args.output is not None:
            raise
        world.say(f"note: {error}")
        return None


def _draft(
    args: argparse.Namespace, command: Command, folder: Path, targets: drafts.Targets | None
) -> Draft:
    from engineforge.drafting.trtexec import model_of, translate

    place = drafts.placed_in(folder)
    return translate(
        command,
        interface=_interface(model_of(command)),
        targets=targets.targets if targets is not None else {},
        place=place,
        calibration=place(args.calibration) if args.calibration else None,
    )


def _interface(model: str | None) -> ModelInterface | None:
    """What the model looks like, where it is at hand and can be read."""
    if model is None or not Path(model).is_file():
        return None
    from engineforge.stages.sources.onnx import inspect  # loads ONNX

    try:
        return inspect(Path(model))
    except EngineForgeError as error:
        world.say(f"note: {error}")
        return None


def _written(
    args: argparse.Namespace,
    made: Sequence[Draft],
    folder: Path,
    file: Path | None,
    targets: drafts.Targets | None,
) -> dict[str, Path]:
    """Print the specs, or write each into its file; returns the files by the names of drafts."""
    if args.output is None:
        for index, draft in enumerate(made if not args.json else ()):
            if len(made) > 1:
                print(f"{'---' if index else ''}\n# {folder / draft.name}.yaml".lstrip())
            print("\n".join(_text(draft)))
        return {}
    if made and targets is not None and targets.write():
        world.say(f"wrote {targets.file}, with the targets of this host")
    written: dict[str, Path] = {}
    for draft in made:
        path = file or folder / f"{draft.name}.yaml"
        drafts.write_new(path, "\n".join(_text(draft)) + "\n")
        written[draft.name] = path
    return written


def _text(draft: Draft) -> Iterator[str]:
    yield from comment("`engineforge import-trtexec` made this of:")
    yield from (f"#{line[1:]}" for line in comment(f"  {draft.of}"))
    for note in _ordered(draft):
        if note.effect in _IN_SPEC:
            yield from comment(f"{note.effect}: {note}")
    yield from lines(draft.values)


def _ordered(draft: Draft) -> list[Note]:
    return sorted(draft.notes, key=lambda note: _ORDER.index(note.effect))


def _say(draft: Draft, file: Path | None) -> None:
    for note in _ordered(draft):
        world.say(f"{note.effect}: {note}")
    if file is None:
        return
    world.say(f"wrote {file}")
    drafts.say_build(file)
    if draft.measuring is not None:
        variant = next(iter(draft.values["variants"]))
        words = ["engineforge", "bench", str(file), "--variant", variant, *draft.measuring]
        world.say(f"to measure it as trtexec would: {shlex.join(words)}")


def _document(
    made: Sequence[Draft], refused: Sequence[tuple[Command, Untranslated]]
) -> dict[str, Any]:
    def of_note(note: Note) -> dict[str, str]:
        return {"flag": note.flag, "effect": note.effect, "text": note.text}

    return {
        "specs": [
            {
                "name": draft.name,
                "command": draft.of,
                "spec": draft.values,
                "notes": [of_note(note) for note in _ordered(draft)],
                "bench": draft.measuring,
            }
            for draft in made
        ],
        "refused": [
            {"command": str(command), "reasons": [of_note(each) for each in error.reasons]}
            for command, error in refused
        ],
    }
