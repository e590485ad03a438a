"""Where the credentials for a registry are found: the environment, and the files and helpers of
docker and podman (containers-auth.json(5), docs.docker.com/reference/cli/docker/login)."""

from __future__ import annotations

import base64
import binascii
import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engineforge.errors import UsageError

_USER, _PASSWORD = "ENGINEFORGE_REGISTRY_USER", "ENGINEFORGE_REGISTRY_PASSWORD"
_HELPER_SECONDS = 60
_DOCKER_HUB = "https://index.docker.io/v1/"
# What a helper gives for a user when its secret is an identity token.
_IDENTITY = "<token>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """A user and a password; or an identity token, which is given for tokens; or a token itself."""

    found_in: str
    user: str = ""
    password: str = field(default="", repr=False)
    identity: str = field(default="", repr=False)
    token: str = field(default="", repr=False)

    @property
    def basic(self) -> str | None:
        """The header of basic authentication (RFC 7617)."""
        if not self.user and not self.password:
            return None
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()

    @property
    def secrets(self) -> tuple[str, ...]:
        basic = (self.basic or "").removeprefix("Basic ")
        return tuple(filter(None, (self.password, self.identity, self.token, basic)))


def looked_in(environment: Mapping[str, str]) -> str:
    """Where `find` looks, for people."""
    return ", ".join([_USER, *(f"'{path}'" for path in _files(environment))])


def find(host: str, name: str, environment: Mapping[str, str]) -> Credentials | None:
    """Those for a repository of a host (with its port); None where there are none. UsageError for a
    file that cannot be read as one, and for a helper that fails."""
    if environment.get(_USER) or environment.get(_PASSWORD):
        return Credentials(
            found_in=_USER,
            user=environment.get(_USER, ""),
            password=environment.get(_PASSWORD, ""),
        )
    for path in _files(environment):
        if (raw := _read(path)) is not None:
            found = _of_file(raw, path, host, name, environment)
            if found is not None:
                return found
    return None


def _files(environment: Mapping[str, str]) -> list[Path]:
    def under(variable: str, *parts: str) -> Iterator[Path]:
        if folder := environment.get(variable):
            yield Path(folder, *parts)

    found = [
        *under("REGISTRY_AUTH_FILE"),
        *under("XDG_RUNTIME_DIR", "containers", "auth.json"),
        *under("DOCKER_CONFIG", "config.json"),
        *under("HOME", ".docker", "config.json"),
    ]
    return list(dict.fromkeys(found))


def _read(path: Path) -> dict[str, Any] | None:
    try:
        raw = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UsageError(f"'{path}' cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raw = None  # what json says of it may hold credentials
    if not isinstance(raw, dict):
        raise UsageError(
            f"'{path}' holds no credentials as docker and podman write them: it is no JSON object",
            hint="move it away, and log in again with 'docker login'",
        )
    return raw


def _of_file(
    raw: Mapping[str, Any], path: Path, host: str, name: str, environment: Mapping[str, str]
) -> Credentials | None:
    helpers = _section(raw, "credHelpers", path)
    auths = _section(raw, "auths", path)
    for key in _keys(host, name):
        helper = next((value for known, value in helpers.items() if _plain(known) == key), None)
        if isinstance(helper, str):
            # By the specification nothing else in the file counts then.
            return _helped(helper, host, environment)
        entry = next((value for known, value in auths.items() if _plain(known) == key), None)
        if isinstance(entry, dict) and (found := _of_entry(entry, path, key)) is not None:
            return found
    store = raw.get("credsStore")
    return _helped(store, host, environment) if isinstance(store, str) and store else None


def _section(raw: Mapping[str, Any], name: str, path: Path) -> Mapping[str, Any]:
    found = raw.get(name) or {}
    if not isinstance(found, dict):
        raise UsageError(f"'{path}': '{name}' is no JSON object")
    return found


def _keys(host: str, name: str) -> Iterator[str]:
    """From the repository's own to that of the whole host."""
    parts = name.split("/")
    for end in range(len(parts), -1, -1):
        yield "/".join([host, *parts[:end]])


def _plain(key: str) -> str:
    """Without what docker, in its older days, wrote around a host."""
    if key == _DOCKER_HUB:
        return "docker.io"
    return re.sub(r"^https?://", "", re.sub(r"(/v[12])?/?$", "", key))


def _of_entry(entry: Mapping[str, Any], path: Path, key: str) -> Credentials | None:
    def text(name: str) -> str:
        value = entry.get(name)
        return value if isinstance(value, str) else ""

    user, password = text("username"), text("password")
    if auth := text("auth"):
        try:
            user, _, password = base64.b64decode(auth, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise UsageError(f"'{path}': 'auth' of '{key}' is not in base64") from None
    found = Credentials(
        found_in=f"'{path}'",
        user=user,
        password=password.rstrip("\0"),
        identity=text("identitytoken"),
        token=text("registrytoken"),
    )
    return found if found.secrets else None


def _helped(helper: str, host: str, environment: Mapping[str, str]) -> Credentials | None:
    """What `docker-credential-NAME get` gives (github.com/docker/docker-credential-helpers)."""
    program = f"docker-credential-{helper}"
    found = shutil.which(program, path=environment.get("PATH", ""))
    if found is None or not re.fullmatch(r"[\w.-]+", helper):
        raise UsageError(
            f"the credentials for '{host}' are kept by '{program}', which is not on PATH",
            hint=f"install it, or set {_USER} and {_PASSWORD}",
        )
    server = _DOCKER_HUB if host == "docker.io" else host
    try:
        ended = subprocess.run(
            [found, "get"],
            input=server.encode(),
            env=dict(environment),
            capture_output=True,
            timeout=_HELPER_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"'{program}' does not answer: {type(error).__name__}") from None
    if ended.returncode:
        if b"credentials not found" in ended.stdout + ended.stderr:
            return None
        # Not what it wrote: that may hold anything.
        raise UsageError(
            f"'{program} get' for '{host}' ends with exit code {ended.returncode}",
            hint=f"run it by hand: echo {server} | {program} get",
        )
    try:
        raw = json.loads(ended.stdout)
        user, secret = str(raw["Username"]), str(raw["Secret"])
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"'{program} get' gives no credentials, but something else") from None
    where = f"'{program}'"
    if user == _IDENTITY:
        return Credentials(found_in=where, identity=secret)
    return Credentials(found_in=where, user=user, password=secret)
