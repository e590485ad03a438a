"""YAML text to plain values with a line and column for each, and the problems of the text itself.

Stricter than YAML 1.1: what it would read otherwise than it looks is an error. The only file that
imports `yaml`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import yaml

from engineforge.errors import Problem

Path = tuple[str | int, ...]

_MAX_FROM_ALIASES = 100_000
_MAX_DIGITS = 18
_MERGE = "tag:yaml.org,2002:merge"
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_DECIMAL = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_RESOLVER = yaml.resolver.Resolver()
_CONSTRUCTOR = yaml.constructor.SafeConstructor()
_TOO_DEEP = "nested too deep to be read"
_NO_TABS = "indent with spaces: YAML takes no tabs"
_BEGINS = "text that begins with this character stands in quotes"
_SYNTAX_HINTS = {
    "found undefined alias": _BEGINS,
    "found character that cannot start any token": _BEGINS,
    "mapping values are not allowed in this context": "text with ': ' in it stands in quotes; "
    "if this is a key, look at its indentation",
}
_LOADER = cast("type[yaml.SafeLoader]", getattr(yaml, "CSafeLoader", yaml.SafeLoader))


@dataclass(frozen=True, slots=True)
class Document:
    """One YAML file: its value, and where each key and item stands (line, column, from 1)."""

    file: str
    value: object
    marks: Mapping[Path, tuple[int, int]]

    def problem(self, path: Path, message: str, hint: str | None = None) -> Problem:
        """A problem at `path`, or at the nearest place above it that the file has."""
        at = path
        while at and at not in self.marks:
            at = at[:-1]
        return _problem(self.file, self.marks.get(at, (1, 1)), path, message, hint)


@dataclass(frozen=True, slots=True)
class Place:
    """Somewhere in a file, able to say what is wrong there."""

    document: Document
    path: Path

    def problem(self, message: str, hint: str | None = None, *below: str | int) -> Problem:
        return self.document.problem((*self.path, *below), message, hint)

    def below(self, *parts: str | int) -> Place:
        return Place(self.document, (*self.path, *parts))


def _problem(
    file: str, mark: tuple[int, int], path: Path, message: str, hint: str | None
) -> Problem:
    line, column = mark
    return Problem(
        file=file, line=line, column=column, path=dotted(path), message=message, hint=hint
    )


def dotted(path: Path) -> str:
    """A path as people write it: `variants.fp32.profiles[0].x`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


def load(file: str, data: bytes) -> tuple[Document | None, list[Problem]]:
    """Parse one file; None where its text is not YAML. Every problem of the text is listed."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        message = f"expected UTF-8 text, found the byte 0x{data[error.start]:02x}"
        return None, [_text_problem(file, data[: error.start].decode(), message)]
    try:
        nodes = list(yaml.compose_all(text, Loader=_LOADER))
    except yaml.YAMLError as error:
        return None, [_syntax_problem(file, text, error)]
    except RecursionError:
        return None, [Problem(file=file, line=1, column=1, message=_TOO_DEEP)]
    if not nodes:
        return None, [Problem(file=file, line=1, column=1, message="the file is empty")]
    if len(nodes) > 1:
        mark = nodes[1].start_mark
        message = "expected one YAML document, found a second one"
        problem = Problem(
            file=file,
            line=mark.line + 1,
            column=mark.column + 1,
            message=message,
            hint="one file is one spec",
        )
        return None, [problem]
    # Without aliases a text has no more nodes than characters.
    reader = _Reader(file, len(text) + _MAX_FROM_ALIASES)
    try:
        value = reader.read(nodes[0], ())
    except _TooLarge:
        message = f"the aliases of this file expand to more than {_MAX_FROM_ALIASES} values"
        return None, [Problem(file=file, line=1, column=1, message=message)]
    except RecursionError:
        return None, [Problem(file=file, line=1, column=1, message=_TOO_DEEP)]
    return Document(file, value, reader.marks), reader.problems


def _text_problem(file: str, before: str, message: str) -> Problem:
    """A problem of the character after the text `before`."""
    lines = before.split("\n")
    return Problem(file=file, line=len(lines), column=len(lines[-1]) + 1, message=message)


def _syntax_problem(file: str, text: str, error: yaml.YAMLError) -> Problem:
    if isinstance(error, yaml.reader.ReaderError):
        at = next(i for i, c in enumerate(text) if yaml.reader.Reader.NON_PRINTABLE.match(c))
        message = f"not YAML: found the control character U+{ord(text[at]):04X}"
        return _text_problem(file, text[:at], message)
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return Problem(file=file, line=1, column=1, message=f"not YAML: {error}")
    mark, begin = error.problem_mark, error.context_mark
    message = f"not YAML: {error.problem}" + (f" {error.context}" if error.context else "")
    if begin is not None and begin.line != mark.line:
        message += f" that begins on line {begin.line + 1}"
    lines = text.splitlines()
    found = lines[mark.line][mark.column : mark.column + 1] if mark.line < len(lines) else ""
    return Problem(
        file=file,
        line=mark.line + 1,
        column=mark.column + 1,
        message=message,
        hint=_NO_TABS if found == "\t" else _SYNTAX_HINTS.get(error.problem or ""),
    )


class _TooLarge(Exception):
    pass


class _Reader:
    """Walks the node graph once; aliases are followed, so a file is as large as it expands."""

    def __init__(self, file: str, max_nodes: int) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self.marks: dict[Path, tuple[int, int]] = {}
        self._left = max_nodes
        self._open: set[int] = set()

    def _problem(self, node: yaml.Node, path: Path, message: str, hint: str | None = None) -> None:
        mark = node.start_mark.line + 1, node.start_mark.column + 1
        self.problems.append(_problem(self.file, mark, path, message, hint))

    def read(self, node: yaml.Node, path: Path) -> object:
        self._left -= 1
        if self._left < 0:
            raise _TooLarge
        self.marks.setdefault(path, (node.start_mark.line + 1, node.start_mark.column + 1))
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if self._tagged(node, path):
            return None
        if id(node) in self._open:
            self._problem(node, path, "an alias may not contain itself")
            return None
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                return [self.read(item, (*path, i)) for i, item in enumerate(node.value)]
            return self._mapping(cast("yaml.MappingNode", node), path)
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, object]:
        # YAML's `<<: *name`: keys of the mapping itself win, of several merged ones the first.
        merged: dict[str, object] = {}
        for key_node, value_node in reversed(node.value):
            if key_node.tag == _MERGE:
                self._merge(value_node, path, merged)
        own: dict[str, object] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                continue
            key = self._key(key_node, path)
            if key is None:
                continue
            at = (*path, key)
            if key in own:
                line = self.marks[at][0]
                self._problem(key_node, at, f"the key '{key}' is here twice, first on line {line}")
                continue
            self.marks[at] = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            own[key] = self.read(value_node, at)
        return {**merged, **own}

    def _key(self, node: yaml.Node, path: Path) -> str | None:
        if not isinstance(node, yaml.ScalarNode):
            self._problem(node, path, "expected a name as key, found a list or mapping")
            return None
        before = len(self.problems)
        key = self._scalar(node, path)
        if isinstance(key, str):
            return key
        if len(self.problems) == before:
            hint = f"write it in quotes: '{node.value}'"
            kind = "a number" if type(key) in (int, float) else f"the bare word {node.value}"
            self._problem(node, path, f"expected a name as key, found {kind}".rstrip(), hint)
        return None

    def _merge(self, node: yaml.Node, path: Path, into: dict[str, object]) -> None:
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        for source in reversed(sources):
            if not isinstance(source, yaml.MappingNode):
                self._problem(source, path, "expected a mapping after '<<'")
            elif isinstance(value := self.read(source, path), dict):
                into.update(value)

    def _tagged(self, node: yaml.Node, path: Path) -> bool:
        """Whether a tag was written; it would say that the text is not what it looks like."""
        plain = isinstance(node, yaml.ScalarNode) and not node.style
        untagged = _RESOLVER.resolve(type(node), node.value, (plain, True))  # type: ignore[no-untyped-call]
        if node.tag == untagged:
            return False
        tag = node.tag.replace("tag:yaml.org,2002:", "!!")
        self._problem(node, path, f"the YAML tag {tag} has no meaning here", "take it out")
        return True

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> object:
        text = node.value
        if self._tagged(node, path):
            return None
        match node.tag.removeprefix("tag:yaml.org,2002:"):
            case "null":
                return None
            case "bool" if text.lower() in ("true", "false"):
                return text.lower() == "true"
            case "bool":
                meaning = "true" if text.lower() in ("yes", "on") else "false"
                hint = f"write {meaning}, or '{text}' in quotes for the word"
                message = f"found the bare word {text}, which YAML 1.1 reads as {meaning}"
                self._problem(node, path, message, hint)
                return None
            case "int" | "float":
                return self._number(node, path)
            case "timestamp":
                message = f"found {text}, which YAML 1.1 reads as a date"
                self._problem(node, path, message, f"write '{text}' in quotes for the text")
                return None
        return text

    def _number(self, node: yaml.ScalarNode, path: Path) -> int | float | None:
        text, integer = node.value, node.tag.endswith("int")
        if integer and _INTEGER.fullmatch(text) and len(text) <= _MAX_DIGITS:
            return int(text)
        if not integer and _DECIMAL.fullmatch(text) and math.isfinite(float(text)):
            return float(text)
        if len(text) > _MAX_DIGITS:
            message = f"expected a number of at most {_MAX_DIGITS} digits, found {len(text)}"
            self._problem(node, path, message)
            return None
        read = _CONSTRUCTOR.construct_yaml_int if integer else _CONSTRUCTOR.construct_yaml_float
        meaning = read(node)
        write = meaning if math.isfinite(meaning) else "a plain decimal number"
        message = f"found {text}, which YAML 1.1 reads as {meaning}"
        self._problem(node, path, message, f"write {write}, or '{text}' in quotes for the text")
        return None
