"""A model repository on disk. A Triton that polls it sees, at every moment, configurations whose
versions are there, and versions that are whole."""

from __future__ import annotations

import contextlib
import errno
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engineforge.digest import digest_file
from engineforge.errors import EngineForgeError, UsageError
from engineforge.promotion.triton.config import Served, model_config, origin, origin_of
from engineforge.promotion.triton.engines import Engine, Exported, engine_of
from engineforge.promotion.triton.schema import Schema
from engineforge.store import disk, files

CONFIG = "config.pbtxt"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_VERSION = re.compile(r"[1-9][0-9]*")  # Triton ignores folders with other names
_LOCK = "lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What an export did: nothing is in `written` and `removed` where all was there. `needs` says,
    a line each, what a Triton that serves the model must be or be started with."""

    model: Path
    version: Path
    written: tuple[Path, ...]
    removed: tuple[Path, ...]
    needs: tuple[str, ...]


def export(
    engines: Sequence[Exported],
    *,
    repository: Path,
    name: str,
    number: int,
    environment: str,
    keep: int | None = None,
    instances: int = 1,
    max_batch_size: int | None = None,
    backend: str | None = None,
) -> Written:
    """Have the model `name` serve these engines, of one spec and variant and one per target, as its
    version `number`: that of the promotion.

    Other versions stay, and are not served: all, or as many as make `keep` with this one.
    `max_batch_size` is 0 for no batching, None for what the engines allow; `instances` is per GPU;
    `backend` is a Triton backend of one's own. What is made is made beside the repository, on the
    same file system. UsageError for what cannot be asked together, HostUnfit without Triton's
    schema, EngineForgeError for what Triton cannot serve, or must not find changed.
    """
    for what, value in (("keep", keep), ("instances", instances), ("number", number)):
        if value is not None and value < 1:
            raise UsageError(f"{what} is {value}, expected 1 or more")
    if not _NAME.fullmatch(name):
        raise UsageError(f"'{name}' is no name for a model", hint="letters, digits, '.', '_', '-'")
    schema = Schema()
    found = [engine_of(each, backend=backend) for each in engines]
    served = Served(
        name=name,
        environment=environment,
        number=number,
        instances=instances,
        max_batch_size=max_batch_size,
        backend=backend,
    )
    # Says what is wrong before anything is touched.
    model_config(schema, found, served)
    repository = repository.absolute()
    files.make_folder(repository)
    with _staged(repository) as scratch:
        return _Writing(schema, found, served, repository / name, scratch).done(keep)


class _Writing:
    """One export, with the lock of the repository held."""

    def __init__(
        self, schema: Schema, engines: Sequence[Engine], served: Served, model: Path, scratch: Path
    ) -> None:
        self._schema, self._engines, self._served = schema, engines, served
        self._model, self._scratch = model, scratch
        self._version = model / str(served.number)
        self._written: list[Path] = []

    def done(self, keep: int | None) -> Written:
        before = self._before()
        config = model_config(self._schema, self._engines, self._served, before)
        # The order is what makes it safe: first the version, then the configuration that names it,
        # and what that one does not name goes last.
        if before is None:
            self._new_model(config)
        else:
            if self._version.is_dir():
                self._complete()
            else:
                self._publish(self._stage_version(self._scratch), self._version)
            if config != before:
                path = self._model / CONFIG
                files.replace(path, self._schema.write(config), self._scratch)
                self._written.append(path)
        return Written(
            model=self._model,
            version=self._version,
            written=tuple(self._written),
            removed=tuple(self._remove(keep)),
            needs=tuple(dict.fromkeys(need for each in self._engines for need in each.needs)),
        )

    def _before(self) -> Any | None:  # noqa: ANN401 - protobuf's ModelConfig
        """The configuration that is there; None for a new model. EngineForgeError where the model
        is another's."""
        try:
            if not any(self._model.iterdir()):
                return None
        except FileNotFoundError:
            return None
        except NotADirectoryError as error:
            raise EngineForgeError(f"'{self._model}' is a file", hint="give a --name") from error
        path = self._model / CONFIG
        before = self._schema.read(path) if path.is_file() else self._schema.model_config()
        there, ours = origin_of(before), origin(self._engines, self._served.environment)
        if there != ours:
            whose = " ".join(there.values()) or "something else"
            raise EngineForgeError(
                f"the model '{self._model.name}' is there, and is of {whose}, not of "
                f"{' '.join(ours.values())}",
                hint="give another --name",
            )
        return before

    def _new_model(self, config: Any) -> None:  # noqa: ANN401
        staged = self._scratch / "model"
        disk.mkdir(staged)
        self._stage_version(staged)
        files.write_new(staged / CONFIG, self._schema.write(config))
        disk.sync_folder(staged)
        self._publish(staged, self._model)

    def _stage_version(self, parent: Path) -> Path:
        staged = parent / self._version.name
        disk.mkdir(staged)
        for engine in self._engines:
            _copy(engine, staged / engine.file_name)
        files.seal_folder(staged)
        return staged

    def _publish(self, staged: Path, final: Path) -> None:
        with _one_file_system(final):
            if not files.publish_folder(staged, final):
                raise EngineForgeError(f"'{final}' was made by another process meanwhile")
        self._written.append(final)

    def _complete(self) -> None:
        """Add to the version what it lacks: the engines of more targets. What is there must be what
        it was, since Triton may be serving it."""
        for engine in self._engines:
            path = self._version / engine.file_name
            if path.exists():
                same = path.stat().st_size == engine.stored.size
                if not same or digest_file(path) != engine.stored.sha256:
                    raise EngineForgeError(
                        f"'{path}' is there with other bytes than those of "
                        f"'{engine.exported.target}' in {self._served.environment}",
                        hint=f"remove '{self._version}' when no Triton serves it, and export again",
                    )
                continue
            staged = self._scratch / engine.file_name
            _copy(engine, staged)
            disk.chmod(staged, files.READ_ONLY)
            files.sync_file(staged)
            with _one_file_system(path):
                disk.rename(staged, path)
            files.sync_name(path)
            self._written.append(path)

    def _remove(self, keep: int | None) -> Iterator[Path]:
        if keep is None:
            return
        others = sorted(
            int(each.name)
            for each in self._model.iterdir()
            if _VERSION.fullmatch(each.name) and each.is_dir() and each != self._version
        )
        for number in others[: max(0, len(others) - (keep - 1))]:
            path = self._model / str(number)
            # Gone at once: a reader never finds a part of it. The scratch folder goes at the end.
            disk.rename(path, self._scratch / f"removed-{number}")
            disk.sync_folder(self._model)
            yield path


def _copy(engine: Engine, to: Path) -> None:
    files.copy(engine.exported.file, to)
    if to.stat().st_size != engine.stored.size:
        raise EngineForgeError(f"'{engine.exported.file}' changed while it was copied")


@contextlib.contextmanager
def _staged(repository: Path) -> Iterator[Path]:
    """A folder to make things in, where Triton does not look: it takes every folder of a repository
    for a model, hidden ones too. What an export that was killed left there goes first."""
    place = repository.with_name(f".{repository.name}.engineforge")
    try:
        try:
            files.make_folder(place)
        except PermissionError as error:
            raise EngineForgeError(
                f"nothing can be made in '{repository.parent}'",
                hint="versions are made beside the repository, where Triton does not look: give "
                "one in a folder that may be written to",
            ) from error
        with files.lock(place / _LOCK, f"an export into '{repository}'") as locked:
            if locked:
                for each in place.iterdir():
                    if each.name != _LOCK:
                        _discard(each)
            scratch = place / secrets.token_hex(8)
            disk.mkdir(scratch)
            try:
                _check_same(scratch, repository)
                yield scratch
            finally:
                files.remove_folder(scratch)
    finally:
        # Stays where another export waits in it.
        with contextlib.suppress(OSError):
            disk.rmdir(place)


def _discard(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        files.remove_folder(path)
    else:
        disk.unlink(path)


def _check_same(scratch: Path, repository: Path) -> None:
    if scratch.stat().st_dev != repository.stat().st_dev:
        raise _elsewhere(repository)


@contextlib.contextmanager
def _one_file_system(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise _elsewhere(path) from error
        raise


def _elsewhere(path: Path) -> EngineForgeError:
    return EngineForgeError(
        f"'{path}' is on another file system than the folder that it is in: Triton might see half "
        "of what is written there",
        hint="give a folder in it as the repository, so that versions are made beside that one",
    )
