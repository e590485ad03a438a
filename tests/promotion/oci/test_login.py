"""Logging in at registries: where credentials are found, to whom they are sent, and tokens."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from engineforge.errors import UsageError
from engineforge.promotion.oci.credentials import Credentials, find
from engineforge.promotion.oci.documents import Descriptor
from engineforge.promotion.oci.login import Login, TokenRefused
from engineforge.promotion.oci.registry import Registry
from engineforge.store.far.objects import RemoteUnavailable
from tests.promotion.oci.registries import PASSWORD, USER, RunningRegistry, docker_registry
from tests.promotion.oci.token_server import TokenServer, token_server
from tests.store.remote_servers import serving

HOST, NAME = "r.example:5000", "team/ocr/engines"
LOGIN = {"ENGINEFORGE_REGISTRY_USER": USER, "ENGINEFORGE_REGISTRY_PASSWORD": PASSWORD}


def encoded(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


def auths(**users: str) -> dict[str, object]:
    return {"auths": {key: {"auth": encoded(user, "secret")} for key, user in users.items()}}


def written(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def user_of(environment: Mapping[str, str], host: str = HOST, name: str = NAME) -> str | None:
    found = find(host, name, environment)
    return None if found is None else found.user


class TestFindingCredentials:
    def test_the_places_count_in_their_order(self, tmp_path: Path) -> None:
        environment = {
            "HOME": str(tmp_path / "home"),
            "DOCKER_CONFIG": str(tmp_path / "docker"),
            "XDG_RUNTIME_DIR": str(tmp_path / "run"),
            "REGISTRY_AUTH_FILE": str(tmp_path / "auth.json"),
        }
        assert user_of(environment) is None
        for user, path in (
            ("home", "home/.docker/config.json"),
            ("docker", "docker/config.json"),
            ("run", "run/containers/auth.json"),
            ("file", "auth.json"),
        ):
            written(tmp_path / path, auths(**{HOST: user}))
            assert user_of(environment) == user
        assert user_of({**environment, **LOGIN}) == USER

    def test_a_file_without_the_host_leaves_it_to_the_next(self, tmp_path: Path) -> None:
        first = written(tmp_path / "auth.json", auths(**{"other.example": "other"}))
        written(tmp_path / ".docker" / "config.json", auths(**{HOST: "home"}))
        assert user_of({"REGISTRY_AUTH_FILE": str(first), "HOME": str(tmp_path)}) == "home"

    @pytest.mark.parametrize(
        ("keys", "user"),
        [
            ([HOST, f"{HOST}/team", f"{HOST}/team/ocr"], f"{HOST}/team/ocr"),
            ([f"{HOST}/team/ocr/engines", f"{HOST}/team/ocr"], f"{HOST}/team/ocr/engines"),
            ([HOST, f"{HOST}/te", f"{HOST}/team/ocr/engines/more"], HOST),
            ([f"https://{HOST}/v1/"], f"https://{HOST}/v1/"),
            (["r.example", "r.example:5001"], None),
        ],
    )
    def test_the_longest_path_of_the_repository_counts(
        self, tmp_path: Path, keys: list[str], user: str | None
    ) -> None:
        file = written(tmp_path / "auth.json", auths(**{key: key for key in keys}))
        raw = json.loads(file.read_text())
        raw["auths"] = {
            key: {"username": key, "password": "secret"} for key in raw["auths"]
        }  # names with a colon in them do not go into 'auth'
        written(file, raw)
        assert user_of({"REGISTRY_AUTH_FILE": str(file)}) == user

    def test_docker_hub_goes_by_the_name_that_docker_has_for_it(self, tmp_path: Path) -> None:
        file = written(tmp_path / "a", auths(**{"https://index.docker.io/v1/": "hub"}))
        assert user_of({"REGISTRY_AUTH_FILE": str(file)}, "docker.io", "team/a") == "hub"

    @pytest.mark.parametrize("text", ["{", "[]", '{"auths": []}', '{"auths": 3}'])
    def test_a_file_that_is_none_is_told_without_what_it_holds(
        self, tmp_path: Path, text: str
    ) -> None:
        file = tmp_path / "auth.json"
        file.write_text(text)
        if text == '{"auths": []}':
            assert find(HOST, NAME, {"REGISTRY_AUTH_FILE": str(file)}) is None
            return
        with pytest.raises(UsageError, match=r"auth\.json"):
            find(HOST, NAME, {"REGISTRY_AUTH_FILE": str(file)})

    def test_secrets_are_not_shown(self) -> None:
        hidden = {"password": "pw", "identity": "id", "token": "to"}
        shown = repr(Credentials(found_in="a", user="u", **hidden))
        assert shown == "Credentials(found_in='a', user='u')"


@pytest.fixture
def helper(tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """The environment in which the helper `test` is a shell script."""

    def made(script: str, section: str = "credHelpers") -> dict[str, str]:
        program = tmp_path / "bin" / "docker-credential-test"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        config = {"credsStore": "test"} if section == "credsStore" else {section: {HOST: "test"}}
        file = written(tmp_path / "config.json", {**config, **auths(**{HOST: "file"})})
        if section == "credsStore":
            written(file, {**config, "auths": {HOST: {}}})
        return {"PATH": f"{program.parent}:/bin:/usr/bin", "DOCKER_CONFIG": str(tmp_path)}

    return made


GIVES = """[ "$1" = get ] && [ "$(cat)" = r.example:5000 ] || exit 9
echo '{"ServerURL": "x", "Username": "%s", "Secret": "from the helper"}'"""


class TestHelpers:
    @pytest.mark.parametrize("section", ["credHelpers", "credsStore"])
    def test_a_helper_gives_user_and_password(
        self, helper: Callable[..., dict[str, str]], section: str
    ) -> None:
        found = find(HOST, NAME, helper(GIVES % "bob", section))
        assert found is not None
        assert (found.user, found.password) == ("bob", "from the helper")

    def test_a_helper_may_give_an_identity_token(
        self, helper: Callable[..., dict[str, str]]
    ) -> None:
        found = find(HOST, NAME, helper(GIVES % "<token>"))
        assert found is not None
        assert (found.user, found.identity) == ("", "from the helper")

    def test_one_that_has_none_says_so(self, helper: Callable[..., dict[str, str]]) -> None:
        script = "echo credentials not found in native keychain; exit 1"
        assert find(HOST, NAME, helper(script)) is None

    def test_one_that_fails_is_told_without_what_it_wrote(
        self, helper: Callable[..., dict[str, str]]
    ) -> None:
        with pytest.raises(UsageError, match="ends with exit code 3") as error:
            find(HOST, NAME, helper("echo hunter2; exit 3"))
        assert "hunter2" not in str(error.value)

    def test_one_that_gives_something_else_is_told(
        self, helper: Callable[..., dict[str, str]]
    ) -> None:
        with pytest.raises(UsageError, match="gives no credentials"):
            find(HOST, NAME, helper("echo hunter2"))

    @pytest.mark.parametrize("name", ["missing", "../bin/docker-credential-test"])
    def test_one_that_is_not_on_path_is_told(self, tmp_path: Path, name: str) -> None:
        written(tmp_path / "config.json", {"credHelpers": {HOST: name}})
        with pytest.raises(UsageError, match="which is not on PATH"):
            find(HOST, NAME, {"PATH": str(tmp_path), "DOCKER_CONFIG": str(tmp_path)})


def used(repository: Registry) -> None:
    """Reads and writes."""
    data = secrets.token_bytes(1000)
    blob = Descriptor.of(data, "text/plain")
    repository.push(blob, lambda offset: iter((data[offset:],)))
    assert b"".join(repository.stream(blob)) == data


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    with docker_registry(tmp_path_factory.mktemp("guarded"), htpasswd=True) as found:
        yield found


class TestBasic:
    def test_who_logs_in_is_let_in(self, guarded: RunningRegistry) -> None:
        used(guarded.open("a", LOGIN))

    def test_without_credentials_it_says_how_to_log_in(self, guarded: RunningRegistry) -> None:
        with pytest.raises(RemoteUnavailable, match="refuses this: 401") as error:
            guarded.open("a").tags()
        assert f"docker login {guarded.host}" in str(error.value)
        assert "there were none" in str(error.value)

    def test_a_wrong_password_is_told_but_not_repeated(self, guarded: RunningRegistry) -> None:
        wrong = {**LOGIN, "ENGINEFORGE_REGISTRY_PASSWORD": "hunter2hunter2"}
        with pytest.raises(RemoteUnavailable, match="refuses this: 401") as error:
            guarded.open("a", wrong).tags()
        assert "found in ENGINEFORGE_REGISTRY_USER" in str(error.value)
        assert "hunter2" not in str(error.value)
        assert encoded(USER, "hunter2hunter2") not in str(error.value)


@pytest.fixture
def tokens(tmp_path: Path) -> Iterator[TokenServer]:
    with token_server(tmp_path / "tokens", f"Basic {encoded(USER, PASSWORD)}") as found:
        yield found


@pytest.fixture
def tokened(tokens: TokenServer, tmp_path: Path) -> Iterator[RunningRegistry]:
    with docker_registry(tmp_path / "tokened", token=tokens.config) as found:
        yield found


class TestTokens:
    def test_who_has_a_token_is_let_in(self, tokened: RunningRegistry) -> None:
        used(tokened.open("a", LOGIN))

    def test_a_token_is_asked_for_once_for_each_purpose(
        self, tokened: RunningRegistry, tokens: TokenServer
    ) -> None:
        repository = tokened.open("a", LOGIN)
        for _ in range(3):
            used(repository)
        assert sorted(tokens.scopes) == [["repository:a:pull"], ["repository:a:pull,push"]]

    def test_mounting_asks_for_the_other_repository_too(
        self, tokened: RunningRegistry, tokens: TokenServer
    ) -> None:
        blob = Descriptor.of(b"a blob", "text/plain")
        source, repository = tokened.open("source", LOGIN), tokened.open("a", LOGIN)
        source.push(blob, lambda offset: iter((b"a blob"[offset:],)))
        assert repository.mount(blob, source)
        assert ["repository:a:pull,push", "repository:source:pull"] in tokens.scopes

    def test_a_token_that_ends_is_replaced_before_it_does(
        self, tokened: RunningRegistry, tokens: TokenServer
    ) -> None:
        tokens.said_lives = 1e-9
        repository = tokened.open("a", LOGIN)
        repository.tags()
        repository.tags()
        assert len(tokens.scopes) >= 2

    def test_a_token_that_ended_earlier_than_was_said_is_replaced(
        self, tokened: RunningRegistry, tokens: TokenServer
    ) -> None:
        tokens.lives, tokens.said_lives = -3600, 3600
        repository = tokened.open("a", LOGIN)
        with pytest.raises(RemoteUnavailable, match="refuses this: 401"):
            repository.tags()
        tokens.lives = 300
        used(repository)

    def test_a_wrong_password_is_told_but_not_repeated(self, tokened: RunningRegistry) -> None:
        wrong = {**LOGIN, "ENGINEFORGE_REGISTRY_PASSWORD": "hunter2hunter2"}
        with pytest.raises(RemoteUnavailable, match="no login at the registry") as error:
            tokened.open("a", wrong).tags()
        assert "answers 401" in str(error.value)
        assert "hunter2" not in str(error.value)
        assert encoded(USER, "hunter2hunter2") not in str(error.value)

    def test_an_identity_token_is_given_for_tokens(
        self, tokened: RunningRegistry, tokens: TokenServer, tmp_path: Path
    ) -> None:
        entry = {"auth": encoded("<token>", ""), "identitytoken": tokens.identity}
        file = written(tmp_path / "auth.json", {"auths": {tokened.host: entry}})
        used(tokened.open("a", {"REGISTRY_AUTH_FILE": str(file)}))

    @pytest.mark.parametrize(
        "realm", ["http://tokens.example/token", "ftp://tokens.example/", "https://a@b/", "token"]
    )
    def test_credentials_go_to_no_token_server_without_encryption(self, realm: str) -> None:
        sent: list[str] = []

        def fetch(
            _: str, url: str, headers: Mapping[str, str], body: bytes | None
        ) -> tuple[int, bytes]:
            sent.append(f"{url} {headers} {body!r}")
            return 200, b'{"token": "a"}'

        login = Login(HOST, NAME, environment=LOGIN)
        challenge = [f'Bearer realm="{realm}",service="s"']
        with pytest.raises(TokenRefused):
            login.challenged(challenge, frozenset({"repository:a:pull"}), None, fetch)
        assert sent == []


def test_credentials_stay_with_the_registry_that_redirects() -> None:
    data, seen = b"a blob", []
    blob = Descriptor.of(data, "text/plain")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        location = ""

        def do_GET(self) -> None:
            seen.append((self.path, self.headers.get("Authorization")))
            if self.path == "/elsewhere":
                self._answer(200, {}, data)
            elif self.headers.get("Authorization") is None:
                self._answer(401, {"WWW-Authenticate": 'Basic realm="r"'})
            else:
                self._answer(307, {"Location": Handler.location})

        def _answer(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with (
        serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as first,
        serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as second,
    ):
        Handler.location = f"http://127.0.0.1:{second}/elsewhere"
        url = f"oci://127.0.0.1:{first}/a"
        repository = Registry.open(url, environment=LOGIN, said=lambda _: None)
        assert b"".join(repository.stream(blob)) == data
    assert seen[-1] == ("/elsewhere", None)
    assert seen[-2] == (f"/v2/a/blobs/{blob.digest}", f"Basic {encoded(USER, PASSWORD)}")
