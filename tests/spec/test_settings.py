"""`engineforge.yaml`: what holds for all specs of a folder."""

from __future__ import annotations

import pytest

from engineforge.spec.load import load
from engineforge.spec.settings import RemoteSettings, Settings, parse_settings
from engineforge.spec.validate import validate


def _problems(text: str) -> list[str]:
    document, problems = load("engineforge.yaml", text.encode())
    assert document is not None
    return [str(each) for each in (*problems, *validate("settings", document))]


def _settings(text: str) -> Settings:
    assert _problems(text) == []
    document, _ = load("engineforge.yaml", text.encode())
    assert document is not None
    return parse_settings(document)


@pytest.mark.parametrize(
    "url", ["s3://engines/team-a", "gs://b", "az://c/p", "https://h/x", "file:///srv/e", "../far"]
)
def test_a_remote_is_a_url_or_a_folder(url: str) -> None:
    assert _settings(f"remote: {{url: '{url}'}}") == Settings(remote=RemoteSettings(url=url))


def test_what_is_built_is_pushed_in_ci_unless_said_otherwise() -> None:
    assert RemoteSettings(url="s3://b").push == "ci"
    settings = _settings("remote: {url: s3://b, push: always}")
    assert settings.remote is not None
    assert settings.remote.push == "always"


def test_there_need_not_be_a_remote() -> None:
    assert _settings("{}") == Settings(remote=None)


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("remote: {}", ":1:1: remote", "url"),
        ("remote: {url: 'ftp://h/x'}", "remote.url", "s3://"),
        ("remote: {url: s3://b, push: sometimes}", "remote.push", "always"),
        ("remotes: {url: s3://b}", "1:1: remotes", "remote"),
        ("remote: s3://b", "remote", "expected a mapping"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str, where: str, what: str) -> None:
    (problem,) = _problems(text)
    assert where in problem
    assert what in problem


@pytest.mark.parametrize(
    "text",
    [
        "remote: {url: 'https:/bob:hunter22@host/x'}",
        "remote: {url: 'htps://bob:hunter22@host/x'}",
        "remote: {url: ['https://bob:hunter22@host/x']}",
        "remote: 'https://bob:hunter22@host/x'",
        "remote: ['https://bob:hunter22@host/x']",
    ],
)
def test_a_password_in_a_url_that_is_wrong_is_not_shown(text: str) -> None:
    (problem,) = _problems(text)
    assert "expected" in problem
    assert "hunter22" not in problem
    assert "found" not in problem
