"""Every command with its options, and every key of every file, as one page of Markdown, made from
the parser and the schema: `python -m engineforge.cli.reference > specs/REFERENCE.md`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from engineforge.backends.options import OPTIONS, Option
from engineforge.cli.arguments import parser
from engineforge.cli.arguments.examples import EXAMPLES
from engineforge.errors import (
    EngineForgeError,
    HostUnfit,
    PromotionRefused,
    StoreCorrupt,
    UsageError,
)
from engineforge.spec.validate import schema

ENVIRONMENT: Mapping[str, str] = {
    "ENGINEFORGE_CACHE": "the cache, as `--cache`; on a node of a cluster, where its cache is",
    "ENGINEFORGE_REMOTE": "the store that machines share, as `--remote`",
    "ENGINEFORGE_KEY": "the key that signs, as `--key`",
    "ENGINEFORGE_KEY_PASSWORD": "its password",
    "ENGINEFORGE_REGISTRY_USER": "goes to every registry that asks for a login",
    "ENGINEFORGE_REGISTRY_PASSWORD": "the same",
    "ENGINEFORGE_INSECURE_REGISTRIES": "hosts, with commas between, that are reached by http",
    "ENGINEFORGE_WEBHOOK": "where `nightly` posts what went wrong, as `--webhook`",
    "CUDA_VISIBLE_DEVICES": "the GPUs that there are for EngineForge, as for CUDA",
    "CI": "where it is set, `push: ci` pushes and progress is lines",
    "NO_COLOR": "no colours",
    "RAY_ADDRESS": "the cluster that `--on ray` means",
}
"""What the process environment says; providers' and package managers' own variables besides."""

_CODES: Mapping[str, str] = {
    "0": "done",
    str(EngineForgeError.exit_code): "a build or check failed",
    str(UsageError.exit_code): "bad usage, or specs, targets or settings that are wrong",
    str(PromotionRefused.exit_code): "a promotion or a pull was refused",
    str(StoreCorrupt.exit_code): "what is stored is not what it should be",
    str(HostUnfit.exit_code): "this host cannot do it",
    "130": "interrupted; the same command goes on from there",
}
_FILES = (
    ("spec", "`specs/*.yaml`: a model and its variants"),
    ("targets", "`specs/targets.yaml`: where engines will run"),
    ("settings", "`specs/engineforge.yaml`: what holds for all specs"),
    ("environments", "`specs/environments.yaml`: where engines are promoted to"),
)
# What stands in several places is told once.
_SECTIONS: Mapping[str, str] = {
    "dataset": "A data set",
    "builder": "Builder options",
    "options": "Builder options",
    "cell": "A variant",
}
_ANY_NAME = "NAME"


def page() -> str:
    """The page."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# Reference"
    yield ""
    yield "Made by `python -m engineforge.cli.reference > specs/REFERENCE.md`; not to be edited."
    yield ""
    yield from ("## Commands", "")
    for name, command, text in _commands(parser()):
        yield from _command(name, command, text)
    yield from ("## Exit codes", "", "| code | |", "|---|---|")
    yield from (f"| {code} | {text} |" for code, text in _CODES.items())
    yield from ("", "## Environment", "", "| variable | |", "|---|---|")
    yield from (f"| `{name}` | {text} |" for name, text in ENVIRONMENT.items())
    whole = schema("spec")["$defs"]
    for kind, title in _FILES:
        yield from ("", f"## {title}", "")
        yield from _table(whole, whole[kind], without=_of_a_variant(whole, kind))
        if kind == "spec":
            yield from _sections(whole)


def _of_a_variant(whole: Mapping[str, Any], kind: str) -> frozenset[str]:
    """What a spec may say because a variant may, but for what is about the file."""
    if kind != "spec":
        return frozenset()
    return frozenset(whole["cell"]["properties"]) - {"description"}


def _sections(whole: Mapping[str, Any]) -> Iterator[str]:
    yield from ("", "### A variant", "")
    yield "What a variant may say. At the top of the file it holds for all of them."
    yield ""
    yield from _table(whole, whole["cell"])
    yield from ("", "### A data set", "")
    yield "A `.npz` or `.npy` file (samples along the first axis), a folder of them, or a mapping:"
    yield ""
    yield from _table(whole, whole["dataset"])
    yield from ("", "### Builder options", "")
    yield "Under `builder`, or for one backend alone under `builder: {tensorrt: …}` or"
    yield "`{tensorrt_rtx: …}`. A version says which honour it; where no default is told, it is"
    yield "what TensorRT does by itself."
    yield ""
    yield from (
        "| option | type | default | TensorRT | TensorRT-RTX | |",
        "|---|---|---|---|---|---|",
    )
    for option in OPTIONS:
        yield _option(whole, option)


def _commands(
    whole: argparse.ArgumentParser, above: str = "", about: str = ""
) -> Iterator[tuple[str, argparse.ArgumentParser, str]]:
    """All that can be asked for, in the order of the help, what has actions after its own line."""
    for action in whole._actions:  # argparse tells them nowhere else
        if isinstance(action, argparse._SubParsersAction):
            texts = {each.dest: each.help or "" for each in action._choices_actions}
            for name, command in action.choices.items():
                called = f"{above} {name}".strip()
                yield called, command, texts.get(name, about)
                yield from _commands(command, called)


def _command(name: str, command: argparse.ArgumentParser, text: str) -> Iterator[str]:
    actions = [each for each in command._actions if not isinstance(each, argparse._HelpAction)]
    nested = [each for each in actions if isinstance(each, argparse._SubParsersAction)]
    given = [each for each in actions if not each.option_strings and each not in nested]
    words = [f"engineforge {name}", *map(_positional, given), *("ACTION" for _ in nested)]
    yield from (f"### `{' '.join(words)}`", "", f"{text[:1].upper()}{text[1:]}.", "")
    told = [each for each in actions if each not in nested]
    if told:
        yield from ("| | |", "|---|---|")
        yield from (f"| `{_cell(_spoken(each))}` | {_cell(_help(each))} |" for each in told)
        yield ""
    if examples := EXAMPLES.get(name):
        yield from ("```sh", *examples, "```", "")


def _positional(action: argparse.Action) -> str:
    shown = _metavar(action)
    many = action.nargs in ("*", "+", argparse.REMAINDER)
    inside = f"{shown}…" if many else shown
    return f"[{inside}]" if action.nargs in ("*", "?", argparse.REMAINDER) else inside


def _spoken(action: argparse.Action) -> str:
    if not action.option_strings:
        return _metavar(action)
    names = ", ".join(action.option_strings)
    if action.nargs == 0:
        return names
    shown = f"[{_metavar(action)}…]" if action.nargs == "*" else _metavar(action)
    return f"{names} {shown}"


def _metavar(action: argparse.Action) -> str:
    if action.choices is not None:
        return "|".join(map(str, action.choices))
    return str(action.metavar or action.dest.upper())


def _help(action: argparse.Action) -> str:
    text = (action.help or "") % {"default": action.default, "prog": "engineforge"}
    usual = action.default
    plain = isinstance(usual, str | int | float) and not isinstance(usual, bool)
    if action.required and action.option_strings:
        text = f"{text} (required)"
    if plain and usual != "" and "default" not in text:
        text = f"{text} (default: {usual})".strip()
    return text


def _table(
    whole: Mapping[str, Any], of: Mapping[str, Any], *, without: Collection[str] = ()
) -> Iterator[str]:
    yield from ("| key | type | default | |", "|---|---|---|---|")
    keys = {name: each for name, each in of.get("properties", {}).items() if name not in without}
    yield from _rows(whole, {**of, "properties": keys}, "")


def _rows(whole: Mapping[str, Any], of: Mapping[str, Any], above: str) -> Iterator[str]:
    """A row for each key, those of objects inside after their own."""
    required = of.get("required", ())
    for name, raw in of.get("properties", {}).items():
        key, (node, elsewhere) = f"{above}{name}", _resolved(whole, raw)
        usual = "required" if name in required else _usual(raw, node)
        text = _text(raw) or _text(node)
        if elsewhere is not None:
            link = elsewhere.lower().replace(" ", "-")
            text = f"{text}: [{elsewhere.lower()}](#{link})"
        yield f"| `{key}` | {_type(whole, node)} | {usual} | {_cell(text)} |"
        if elsewhere is None:
            yield from _rows(whole, node, f"{key}.")
            yield from _named(whole, node, f"{key}.")
            inside, _ = _resolved(whole, node.get("items", {}))
            yield from _rows(whole, inside, f"{key}[].")
    if not above:
        yield from _named(whole, of, "")


def _named(whole: Mapping[str, Any], of: Mapping[str, Any], above: str) -> Iterator[str]:
    """The keys of what stands under names that a file chooses."""
    inside = of.get("additionalProperties")
    if not isinstance(inside, dict):
        return
    node, elsewhere = _resolved(whole, inside)
    if elsewhere is not None:
        link = elsewhere.lower().replace(" ", "-")
        yield f"| `{above}{_ANY_NAME}` | mapping |  | [{elsewhere.lower()}](#{link}) |"
    elif "properties" in node:
        yield from _rows(whole, node, f"{above}{_ANY_NAME}.")


def _resolved(
    whole: Mapping[str, Any], node: Mapping[str, Any]
) -> tuple[Mapping[str, Any], str | None]:
    """What a reference leads to, and the section that tells of it, where that is another."""
    section = None
    while "$ref" in node:
        *_, name = path = str(node["$ref"]).split("/")[2:]
        section = section or (_SECTIONS.get(name) if len(path) == 1 else None)
        found: Any = whole
        for each in path:
            found = found[each]
        node = found
    return node, section


def _usual(raw: Mapping[str, Any], node: Mapping[str, Any]) -> str:
    found = raw.get("default", node.get("default"))
    return "" if found is None else f"`{json.dumps(found)}`"


def _type(whole: Mapping[str, Any], node: Mapping[str, Any]) -> str:
    if "const" in node:
        return f"`{node['const']}`"
    if "enum" in node:
        return ", ".join(f"`{each}`" for each in node["enum"])
    if node is whole["size"]:
        return "size"
    kinds = node.get("type", "any")
    told = []
    for kind in [kinds] if isinstance(kinds, str) else kinds:
        if kind == "array" and "items" in node:
            inside, _ = _resolved(whole, node["items"])
            told.append(f"list of {_type(whole, inside)}")
        elif kind == "object":
            told.append("mapping")
        else:
            told.append({"array": "list", "boolean": "true or false"}.get(kind, kind))
    return " or ".join(told)


def _text(node: Mapping[str, Any]) -> str:
    return str(node.get("description", ""))


def _option(whole: Mapping[str, Any], option: Option) -> str:
    node, _ = _resolved(whole, whole["option"][option.name])
    own = whole["option"][option.name]
    usual = "" if option.default is None else f"`{json.dumps(option.default)}`"
    if option.kind == "pool" and isinstance(option.default, int):
        usual = f"`{option.default >> 30}GiB`"
    classic, rtx = _versions(option.tensorrt), _versions(option.tensorrt_rtx)
    text = _cell(_text(own))
    return f"| `{option.name}` | {_type(whole, node)} | {usual} | {classic} | {rtx} | {text} |"


def _versions(honoured: str | None) -> str:
    if honoured is None:
        return "no"
    return f"`{honoured}`" if honoured else "yes"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    print(page(), end="")
