"""Files of PyTorch: what is in them, read without running code that came in them.

A `.pt` file is a pickle, and an exported program has pickles and Python expressions inside it that
PyTorch evaluates when it loads or exports it. Without trust, all of those are looked at first.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import logging
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from engineforge.stages.sources import SourceFailed, beginning, warn_of_code

_SUFFIXES = (".safetensors", ".pt", ".pth")
_TRUST = "if it comes from people you trust: trust: true"
# In the text of a TorchScript archive: what writes or maps files.
_TOUCHES_FILES = re.compile(rb"\btorch\.(save|from_file)\b|\baten\.(save|from_file)\b")
_NAME = re.compile(r"[\w.*]*")
# What expressions over sizes are made of, as `torch.export.save` writes them.
_EXPRESSION = (
    *(ast.Expression, ast.Constant, ast.Name, ast.Load, ast.Call, ast.keyword, ast.Tuple),
    *(ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.Subscript, ast.Attribute),
    *(ast.operator, ast.unaryop, ast.boolop, ast.cmpop),
)
# What of PyTorch was in a file: its types are not imported here.
Model = Any
_OF_TENSORS = ("size", "stride", "storage_offset")


def read_weights(path: Path, called: str, *, trust: bool) -> dict[str, Any]:
    """The tensors of a `.safetensors` file or of a state dict that `torch.save` wrote, by name.

    SourceFailed where the file holds anything else or is damaged. With `trust` code in it runs, and
    of a whole module those are its weights.
    """
    import torch

    _check_file(path, called)
    if path.suffix not in _SUFFIXES:
        raise SourceFailed(
            f"'{called}': no weights are read from '{path.suffix}' files",
            hint=f"expected {', '.join(_SUFFIXES[:-1])} or {_SUFFIXES[-1]}",
        )
    if path.suffix == ".safetensors":
        return _safetensors(path, called)
    if trust:
        warn_of_code(called)
    try:
        found = torch.load(path, map_location="cpu", weights_only=not trust)
    except pickle.UnpicklingError as error:
        raise _no_weights_only(error, called) from error
    except Exception as error:  # what damaged pickles raise has no end: EOFError, KeyError, …
        if "TorchScript" in str(error):
            message = f"'{called}' is a TorchScript archive, not weights"
            raise SourceFailed(message, hint=f"torchscript: {called}") from error
        raise damaged(called, error) from error
    if isinstance(found, torch.nn.Module):
        found = found.state_dict()
    return _tensors(found, called)


def _safetensors(path: Path, called: str) -> dict[str, Any]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ModuleNotFoundError as error:
        message = f"'{called}' is read with safetensors, and it is not installed"
        hint = "python -m pip install 'engineforge[pytorch]'"
        raise SourceFailed(message, hint=hint) from error
    try:
        return load_file(path)
    except SafetensorError as error:
        raise damaged(called, error) from error


def _tensors(found: object, called: str) -> dict[str, Any]:
    import torch

    if not isinstance(found, Mapping):
        message = f"'{called}' holds a {type(found).__name__}, not a state dict"
        raise SourceFailed(message, hint="torch.save(module.state_dict(), ...)")
    for name, value in found.items():
        if not isinstance(value, torch.Tensor):
            holds = f"'{called}' holds a {type(value).__name__} at '{name}', not a tensor"
            inner = [key for key, each in found.items() if isinstance(each, Mapping)]
            where = next((each for each in inner if "state" in str(each)), next(iter(inner), None))
            wrote = "module.state_dict()" if where is None else f"checkpoint[{where!r}]"
            raise SourceFailed(holds, hint=f"torch.save({wrote}, ...) keeps the weights alone")
    return dict(found)


def _no_weights_only(error: pickle.UnpicklingError, called: str) -> SourceFailed:
    said = str(error)
    found = re.search(r"GLOBAL (\S+)", said)
    if found is None:
        return damaged(called, error)
    name = found[1].rstrip(".,")
    message = f"'{called}' holds Python objects, such as '{name}', and loading them may run code"
    hint = f"torch.save(module.state_dict(), ...) keeps the weights alone; {_TRUST}"
    return SourceFailed(message, hint=hint)


def read_program(path: Path, called: str, *, trust: bool) -> Model:
    """A saved `torch.export.ExportedProgram`. SourceFailed where it is none, or where it holds code
    and there is no `trust`."""
    import torch

    _check_file(path, called)
    if trust:
        warn_of_code(called)
    else:
        try:
            _check_program(path, called)
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise damaged(called, error) from error
    try:
        # By a stream: of a path it wants the suffix .pt2.
        with _quiet("torch.export"), path.open("rb") as file:
            return torch.export.load(file)
    except Exception as error:  # what damaged archives raise has no end
        raise damaged(called, error) from error


def _check_program(path: Path, called: str) -> None:
    """SourceFailed for what runs when a program is loaded or exported.

    Found by reading `torch/export/pt2_archive/_package.py` and `torch/_export/serde/serialize.py`
    of PyTorch 2.13, and by archives made to run code: pickled tensors, constants and example
    inputs; expressions over sizes and guards, which it evaluates; names, which become source code.
    """
    import torch

    archive = torch._C.PyTorchFileReader(str(path))  # the reader that loading takes: no other view
    records = {name: str(name) for name in archive.get_all_records()}
    with zipfile.ZipFile(path) as as_zip:
        old = [name for name in as_zip.namelist() if name.startswith("serialized_")]
    if old or not any(name.startswith("models/") for name in records):
        message = f"'{called}' is no program that torch.export.save of PyTorch 2.8 or newer wrote"
        raise SourceFailed(message, hint="save it again with the PyTorch that is here")
    for name in records:
        if name.startswith("data/aotinductor/"):
            raise _code_in(called, "a compiled library")
        if name.endswith("_config.json"):
            config = json.loads(archive.get_record(name))["config"]
            for tensor, payload in config.items():
                objects = str(payload["path_name"]).startswith(("custom_obj", "opaque_obj"))
                if payload["use_pickle"] or objects:
                    raise _code_in(called, f"the pickled object '{tensor}'")
        elif name.endswith(".pt"):
            try:
                torch.load(io.BytesIO(archive.get_record(name)), weights_only=True)
            except pickle.UnpicklingError as error:
                raise _code_in(called, f"a pickle with Python objects in it ('{name}')") from error
        elif name.startswith("models/"):
            for found in _unexpected(json.loads(archive.get_record(name))):
                raise _code_in(called, f"an unexpected expression: {found!r}")


def _unexpected(value: object, key: str = "") -> Iterator[str]:
    """Text in a program that would become code, and is not what torch.export.save writes there."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name != "metadata":
                yield from _unexpected(inner, str(name))
            if key.endswith("_values") and not _NAME.fullmatch(str(name)):
                yield str(name)
    elif isinstance(value, list):
        for each in value:
            yield from _unexpected(each, key)
    elif isinstance(value, str) and (
        (key in ("expr_str", "guards_code") and not _is_plain(value))
        or (key in ("name", "as_name", "forward_arg_names") and not _NAME.fullmatch(value))
    ):
        yield value


def _is_plain(expression: str) -> bool:
    """Whether it is arithmetic on symbols and sizes, and calls nothing but what torch writes."""
    try:
        nodes = list(ast.walk(ast.parse(expression.strip(), mode="eval")))
    except (SyntaxError, ValueError, RecursionError):
        return False
    for node in nodes:
        if not isinstance(node, _EXPRESSION):
            return False
        if isinstance(node, ast.Constant) and not re.fullmatch(r"[\w.]*", str(node.value)):
            return False
        if isinstance(node, ast.Attribute) and node.attr not in _OF_TENSORS:
            return False
        if isinstance(node, ast.Call) and not (
            isinstance(node.func, ast.Attribute)
            # Functions of sympy and torch begin so, and nothing of Python's own does that could
            # reach further.
            or (isinstance(node.func, ast.Name) and re.fullmatch(r"[A-Z]\w+", node.func.id))
            or (isinstance(node.func, ast.Name) and node.func.id in ("max", "min", "abs"))
        ):
            return False
    return True


def read_torchscript(path: Path, called: str, *, trust: bool) -> Model:
    """A TorchScript module, on the CPU. SourceFailed where the file is none, or where its code
    writes files, as it runs when it is exported, and there is no `trust`."""
    import torch

    _check_file(path, called)
    if trust:
        warn_of_code(called)
    try:
        if not trust:
            _check_torchscript(path, called)
        return torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        hint = None
        if "constants.pkl" in str(error):
            hint = "weights are for a 'module', an exported program is a 'program'"
        raise damaged(called, error, hint) from error


def _check_torchscript(path: Path, called: str) -> None:
    import torch

    archive = torch._C.PyTorchFileReader(str(path))
    for name in archive.get_all_records():
        if name.endswith(".py") and (found := _TOUCHES_FILES.search(archive.get_record(name))):
            raise _code_in(called, f"code that touches files ('{found[0].decode()}')")


def _code_in(called: str, what: str) -> SourceFailed:
    return SourceFailed(f"'{called}' holds {what}, and loading it may run code", hint=_TRUST)


def damaged(called: str, error: Exception, hint: str | None = None) -> SourceFailed:
    """What to raise for a file that a library cannot read."""
    said = " ".join(str(error).partition("This is an internal miniz error")[0].split())
    said = f"{type(error).__name__}: {said[:200]}".rstrip(": ")
    return SourceFailed(
        f"'{called}' cannot be read: {said}",
        hint=hint or "it may be truncated: compare its size with that of the original",
    )


def _check_file(path: Path, called: str) -> None:
    try:
        start = beginning(path, called)
    except OSError as error:
        raise SourceFailed(f"'{called}' cannot be read: {error.strerror}") from error
    if not start:
        raise SourceFailed(f"'{called}' is empty")


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Without what a library logs of an error that it raises as well."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
