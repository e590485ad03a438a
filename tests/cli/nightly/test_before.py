"""What is wrong with the command itself is told at once, and no night made."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("cryptography", reason="python -m pip install 'engineforge[promotion]'")
pytest.importorskip("onnxruntime", reason="python -m pip install 'engineforge[precision]'")
pytest.importorskip("jinja2", reason="python -m pip install 'engineforge[report]'")

from tests.cli.nightly.nights import (
    KEY,
    night,
)
from tests.conftest import Forge

pytestmark = pytest.mark.slow


class TestBeforeItBegins:
    """What is wrong with the command itself is told at once, and no night made."""

    @pytest.fixture(autouse=True)
    def no_night(self, sound: Forge) -> Iterator[None]:
        yield
        assert not list(sound.root.glob("nights/2*"))

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            ((), "there is no key"),
            (("--key", "nowhere.key"), "'nowhere.key' cannot be read"),
            (("--key", "specs/keys/ci.pub"), "expected a private key"),
            ((*KEY, "--to", "produktion"), "did you mean 'production'?"),
            ((*KEY, "--to", "dev", "--no-promote"), "choose one"),
            ((*KEY, "--older-than", "yesterday"), "'yesterday' is no time"),
            ((*KEY, "--max-size", "much"), "'much' is no size"),
            ((*KEY, "--webhook", "hooks.example.com/s3cr3t"), "is no URL"),
        ],
    )
    def test_it_is_2(self, words: tuple[str, ...], told: str, sound: Forge) -> None:
        result = sound.run("nightly", "-o", "nights", *words)
        assert result.code == 2
        assert told in result.err
        assert "s3cr3t" not in result.err

    def test_two_first_environments_are_one_too_many(self, sound: Forge) -> None:
        sound.edit("environments", "  from: dev\n", "")
        result = night(sound)
        assert result.code == 2
        assert "--to ENV" in result.err

    def test_a_key_without_environments_is_for_nothing(self, sound: Forge) -> None:
        (sound.specs / "environments.yaml").unlink()
        result = night(sound)
        assert result.code == 2
        assert "environments.yaml" in result.err

    def test_a_folder_that_cannot_be_made_is_told(self, sound: Forge) -> None:
        assert sound.run("nightly", "-o", "no/nights", *KEY).code == 2
        assert sound.run("nightly", "-o", "/proc/nights", *KEY).code == 5

    @pytest.mark.parametrize("typed", ["--webhok=%s", "--web-hook=%s", "--to dev --weebhook=%s"])
    def test_an_option_that_is_mistyped_does_not_tell_the_secret(
        self, typed: str, sound: Forge
    ) -> None:
        words = (typed % "https://hooks.example.com/s3cr3t").split()
        result = sound.run("nightly", "-o", "nights", *KEY, *words)
        assert result.code == 2
        assert "s3cr3t" not in result.err
        assert "did you mean '--webhook'?" in result.err
