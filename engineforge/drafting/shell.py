"""Shell text to the commands of trtexec in it: in scripts, behind wrappers, in pasted logs.

Words are split as a POSIX shell splits them (2.2 and 2.3 of its grammar), but nothing is expanded:
`$MODEL` stays what it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_OPERATORS = frozenset(";&|()<>\n")
_NAME = "trtexec"
# What stands for something else, as in documentation; a shell would take it for a redirection.
_PLACEHOLDER = re.compile(r"<[A-Za-z_][\w .:-]*>")
# `&&&& RUNNING TensorRT.trtexec [TensorRT v8601] # trtexec --onnx=…`: the first line of its log.
_LOGGED = re.compile(r"^&&&& \w+ TensorRT\.trtexec[^#\n]*#(.*)$", re.MULTILINE)
# What Windows shells write before what is typed; its `>` is no redirection.
_PROMPT = re.compile(r"^(\([\w.-]+\) ?)?(PS )?[A-Za-z]:\\[^>\n]*>[ \t]*", re.MULTILINE)
_PASSWORD = re.compile(r"(://[^:/@\s]+):[^@\s]+@")
_ASSIGNED = re.compile(r"[A-Za-z_]\w*=")
_CONTAINERS = ("docker", "nvidia-docker", "podman", "nerdctl", "apptainer", "singularity")


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One call of trtexec: its `arguments`, and the container that it ran in, if it did. As text it
    has no password of a URL in it."""

    arguments: tuple[str, ...]
    container: str | None = None

    def __str__(self) -> str:
        import shlex

        return _PASSWORD.sub(r"\1:…@", shlex.join((_NAME, *self.arguments)))


class Unreadable(ValueError):
    """Text that no shell reads."""


def commands(text: str) -> list[Command]:
    """Every call of trtexec in a text, in order; Unreadable where a quote is not closed."""
    logged = _LOGGED.findall(text)
    text = _PROMPT.sub("", text)
    # A log says each command twice, at the beginning and at the end.
    return list(dict.fromkeys(each for part in logged or [text] for each in _commands(part)))


def _commands(text: str) -> Iterator[Command]:
    for words in _simple_commands(text):
        at = next((i for i, word in enumerate(words) if _is_trtexec(word)), None)
        if at is not None:
            if not any(word.startswith("-") for word in words[at + 1 :]):
                continue  # `which trtexec`
            container = next((w for w in words[:at] if w in _CONTAINERS), None)
            yield Command(arguments=tuple(words[at + 1 :]), container=container)
            continue
        # `bash -c "trtexec …"`, `cmd="trtexec …"`
        for word in words:
            if _NAME in word.lower() and any(map(str.isspace, word)):
                container = next((w for w in words if w in _CONTAINERS), None)
                inside = word[match.end() :] if (match := _ASSIGNED.match(word)) else word
                for inner in _commands(inside):
                    yield Command(arguments=inner.arguments, container=inner.container or container)


def _is_trtexec(word: str) -> bool:
    """`/usr/src/tensorrt/bin/trtexec`, `trtexec.exe`, `!trtexec` of a notebook, `$TRTEXEC`."""
    if any(map(str.isspace, word)) and not re.fullmatch(r"\S.*[/\\]trtexec(\.exe)?", word):
        return False
    name = re.split(r"[/\\]", word)[-1].lstrip("!$").strip("{}").lower()
    return name.removesuffix(".exe") == _NAME


def _simple_commands(text: str) -> Iterator[list[str]]:
    """The words of each simple command, without its redirections."""
    words: list[str] = []
    skip = False  # the word after `>` is a file
    for token in _tokens(text):
        if token is None:
            if words:
                yield words
            words, skip = [], False
        elif isinstance(token, _Redirection):
            if words and words[-1].isdecimal():  # the 2 of `2>&1`
                words.pop()
            skip = True
        elif skip:
            skip = False
        else:
            words.append(token)
    if words:
        yield words


class _Redirection:
    pass


def _tokens(text: str) -> Iterator[str | _Redirection | None]:
    """Words, redirections, and None where a command ends."""
    at, word = 0, None
    while at < len(text):
        char = text[at]
        if word is None and char == "#":
            at = _line_end(text, at)
            continue
        if char == "<" and (named := _PLACEHOLDER.match(text, at)):
            word = (word or "") + named[0]
            at = named.end()
            continue
        if char.isspace() or char in _OPERATORS:
            if word is not None:
                yield word
                word = None
            if char in "<>":
                yield _Redirection()
                while text[at : at + 1] in ("<", ">", "&"):
                    at += 1
                continue
            if char == "&" and text[at + 1 : at + 2] == ">":
                yield _Redirection()
                at += 2
                continue
            if char in _OPERATORS:
                yield None
            at += 1
            continue
        piece, at = _piece(text, at)
        if piece is not None:
            word = (word or "") + piece
    if word is not None:
        yield word


def _line_end(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end


def _piece(text: str, at: int) -> tuple[str | None, int]:
    """The part of a word that begins at `at`, without its quotes, and where it ends."""
    char = text[at]
    if char == "\\":
        after = text[at + 1 : at + 2]
        if after == "\r" and text[at + 2 : at + 3] == "\n":
            return None, at + 3
        # A line that goes on is no part of any word.
        return (None, at + 2) if after in ("\n", "") else (after, at + 2)
    if char == "'":
        end = text.find("'", at + 1)
        if end < 0:
            raise Unreadable("a single quote is not closed")
        return text[at + 1 : end], end + 1
    if char == '"':
        return _double_quoted(text, at + 1)
    if char == "$" and text[at + 1 : at + 2] in ("(", "{"):
        return _substitution(text, at)
    return char, at + 1


def _double_quoted(text: str, at: int) -> tuple[str, int]:
    piece = ""
    while at < len(text):
        char = text[at]
        if char == '"':
            return piece, at + 1
        if char == "\\" and text[at + 1 : at + 2] in ("$", "`", '"', "\\", "\n"):
            piece += text[at + 1].replace("\n", "")
            at += 2
            continue
        piece += char
        at += 1
    raise Unreadable("a double quote is not closed")


def _substitution(text: str, at: int) -> tuple[str, int]:
    """`$(…)` or `${…}` as it is written, with what is nested in it."""
    closing = {"(": ")", "{": "}"}
    opened: list[str] = []
    for end in range(at + 1, len(text)):
        char = text[end]
        if char in closing:
            opened.append(closing[char])
        elif opened and char == opened[-1]:
            opened.pop()
            if not opened:
                return text[at : end + 1], end + 1
    raise Unreadable(f"'{text[at : at + 2]}' is not closed")


def flags(
    arguments: Sequence[str], takes_value: frozenset[str]
) -> Iterator[tuple[str, str | None]]:
    """Flags with their values: `--x=y`, `--x = y`, `--x y` for those that take one; what belongs to
    no flag has the name ''. trtexec itself knows the first form only."""
    words = _with_values(arguments)
    for at, word in enumerate(words):
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("-"):
            before = words[at - 1].removeprefix("--") if at else ""
            if before not in takes_value:
                yield "", word
        elif equals:
            yield name, value
        else:
            after = words[at + 1] if at + 1 < len(words) else "--"
            yield name, None if name not in takes_value or after.startswith("-") else after


def _with_values(arguments: Sequence[str]) -> list[str]:
    """The same, where a value that stands apart with an equals sign is with its flag."""
    words: list[str] = []
    for word in arguments:
        last = words[-1] if words else ""
        begins = last.startswith("--") and "=" not in last and word.startswith("=")
        goes_on = last.startswith("--") and last.endswith("=") and not word.startswith("-")
        if begins or goes_on:
            words[-1] += word
        else:
            words.append(word)
    return words
