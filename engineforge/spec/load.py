"""YAML text to plain values with a line and column for each, and the problems of the text itself.

Stricter than YAML 1.1: what it would read otherwise than it looks is an error. The only file that
imports `yaml`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import yaml

from engineforge.errors import Problem

Path = tuple[str | int, ...]

_MAX_NODES = 1_000_000
_MERGE = "tag:yaml.org,2002:merge"
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
        line, column = self.marks.get(at, (1, 1))
        return Problem(
            file=self.file,
            line=line,
            column=column,
            path=dotted(path),
            message=message,
            hint=hint,
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
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - (data.rfind(b"\n", 0, error.start) + 1) + 1
        message = f"expected UTF-8 text, found the byte 0x{data[error.start]:02x}"
        return None, [Problem(file=file, line=line, column=column, message=message)]
    try:
        nodes = list(yaml.compose_all(text, Loader=_LOADER))
    except yaml.YAMLError as error:
        return None, [_syntax_problem(file, error)]
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
    reader = _Reader(file)
    try:
        value = reader.read(nodes[0], ())
    except _TooLarge:
        message = f"the aliases of this file expand to more than {_MAX_NODES} values"
        return None, [*reader.problems, Problem(file=file, line=1, column=1, message=message)]
    return Document(file, value, reader.marks), reader.problems


def _syntax_problem(file: str, error: yaml.YAMLError) -> Problem:
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    context = getattr(error, "context", None)
    return Problem(
        file=file,
        line=mark.line + 1 if mark else 1,
        column=mark.column + 1 if mark else 1,
        message=f"not YAML: {what}" + (f" {context}" if context else ""),
    )


class _TooLarge(Exception):
    pass


class _Reader:
    """Walks the node graph once; aliases are followed, so a file is as large as it expands."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self.marks: dict[Path, tuple[int, int]] = {}
        self._nodes = 0
        self._open: set[int] = set()

    def _problem(self, node: yaml.Node, path: Path, message: str, hint: str | None = None) -> None:
        line, column = node.start_mark.line + 1, node.start_mark.column + 1
        self.problems.append(
            Problem(
                file=self.file,
                line=line,
                column=column,
                path=dotted(path),
                message=message,
                hint=hint,
            )
        )

    def read(self, node: yaml.Node, path: Path) -> object:
        self._nodes += 1
        if self._nodes > _MAX_NODES:
            raise _TooLarge
        self.marks.setdefault(path, (node.start_mark.line + 1, node.start_mark.column + 1))
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
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
        merged: dict[str, object] = {}
        own: dict[str, object] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                self._merge(value_node, path, merged)
                continue
            key = self.read(key_node, (*path, "?")) if _is_scalar(key_node) else None
            self.marks.pop((*path, "?"), None)
            if not isinstance(key, str):
                if _is_scalar(key_node) and key is not None:
                    hint = f"write it in quotes: '{key_node.value}'"
                    self._problem(key_node, path, "expected a name as key, found a number", hint)
                elif not _is_scalar(key_node):
                    self._problem(key_node, path, "expected a name as key, found a list or mapping")
                continue
            at = (*path, key)
            if key in own:
                line = self.marks[at][0]
                self._problem(key_node, at, f"the key '{key}' is here twice, first on line {line}")
                continue
            self.marks[at] = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            own[key] = self.read(value_node, at)
        return {**merged, **own}

    def _merge(self, node: yaml.Node, path: Path, into: dict[str, object]) -> None:
        # YAML's `<<: *name`: keys of the mapping itself win, of several merged ones the first.
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        for source in sources:
            if not isinstance(source, yaml.MappingNode):
                self._problem(source, path, "expected a mapping after '<<'")
                continue
            value = self.read(source, path)
            for key, item in cast("dict[str, object]", value).items():
                into.setdefault(key, item)

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> object:
        text = node.value
        match node.tag.removeprefix("tag:yaml.org,2002:"):
            case "str":
                return text
            case "null":
                return None
            case "bool":
                if text.lower() in ("true", "false"):
                    return text.lower() == "true"
                meaning = "true" if text.lower() in ("yes", "on", "y") else "false"
                hint = f"write {meaning}, or '{text}' in quotes for the word"
                message = f"found the bare word {text}, which YAML 1.1 reads as {meaning}"
                self._problem(node, _shown(path), message, hint)
            case "int" if re.fullmatch(r"[-+]?(0|[1-9][0-9]*)", text):
                return int(text)
            case "float" if re.fullmatch(r"[-+]?[0-9]+\.?[0-9]*([eE][-+]?[0-9]+)?", text):
                return float(text)
            case "int" | "float" | "timestamp" as kind:
                message = f"found {text}, which YAML 1.1 reads as a {kind} of another form"
                hint = f"write a plain decimal number, or '{text}' in quotes for the text"
                self._problem(node, _shown(path), message, hint)
            case tag:
                self._problem(node, _shown(path), f"the YAML tag {tag} has no meaning here")
        return None


def _shown(path: Path) -> Path:
    return tuple(part for part in path if part != "?")


def _is_scalar(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode)
