"""Specs that have their ONNX model prepared, or fetch it from a server."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
import pytest

from engineforge.digest import digest_bytes, digest_file
from tests.conftest import SPEC, Forge
from tests.store import web_server

_BUILT, _REUSED = {"fp32@ada": "built"}, {"fp32@ada": "reused"}


def entries(forge: Forge, stage: str) -> list[Path]:
    return sorted(forge.cache.glob(f"entries-v1/{stage}/*/*"))


def prepare(forge: Forge, asked: str) -> None:
    forge.edit("net", "models/net.onnx}", f"models/net.onnx}}\n  prepare: {asked}")


def test_a_dimension_is_fixed_before_the_spec_is_checked_against_the_model(forge: Forge) -> None:
    (batch,) = {
        each.dim_param
        for each in onnx.load(forge.model).graph.input[0].type.tensor_type.shape.dim
        if each.dim_param
    }
    prepare(forge, f"{{dimensions: {{{batch}: 4}}}}")
    forge.edit("net", "image: {min: [1, 3, 16, 16], opt: [4, 3, 16, 16], max: [8, 3, 16, 16]}", "")
    forge.edit("net", "inputs:\n", "")
    result = forge.build()
    assert result.outcomes() == _BUILT, result.err
    (made,) = entries(forge, "prepared")
    model = onnx.load(made / "model.onnx", load_external_data=False)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 4
    assert forge.build().outcomes() == _REUSED


def test_what_is_prepared_otherwise_is_another_model(forge: Forge) -> None:
    prepare(forge, "{simplify: true}")
    assert forge.build().outcomes() == _BUILT
    forge.edit("net", "simplify: true", "simplify: true, opset: 19")
    assert forge.build().outcomes() == _BUILT
    assert len(entries(forge, "prepared")) == 2


def test_a_model_that_is_prepared_to_the_same_bytes_rebuilds_nothing(forge: Forge) -> None:
    prepare(forge, "{simplify: true}")
    forge.build()
    model = onnx.load(forge.model)
    model.doc_string = "said otherwise"
    onnx.save(model, forge.model)
    assert forge.build().outcomes() == _REUSED
    assert len(entries(forge, "prepared")) == 2


def test_an_output_that_no_tensor_is_fails_with_the_nearest(forge: Forge) -> None:
    prepare(forge, "{outputs: [logit]}")
    result = forge.build()
    assert (result.code, result.outcomes()) == (1, {"fp32@ada": "failed"})
    assert "logits" in result.json["variants"][0]["error"]
    assert entries(forge, "prepared") == []


@pytest.fixture
def served(forge: Forge, tmp_path: Path) -> Forge:
    """The project with its model on a server instead of beside the spec."""
    shutil.move(forge.model, tmp_path / "away.onnx")
    return forge


def test_a_model_is_fetched_once_and_then_up_to_date(served: Forge, tmp_path: Path) -> None:
    data = (tmp_path / "away.onnx").read_bytes()
    with web_server.site() as site:
        site.files["/net.onnx"] = data
        url = f"{site.url}/net.onnx"
        digest = digest_file(tmp_path / "away.onnx").hex
        served.spec("net", SPEC.replace("path: models/net.onnx", f"url: '{url}', sha256: {digest}"))
        (variant,) = served.plan()
        assert variant["reasons"][0]["first"] == "downloaded"
        assert served.build().outcomes() == _BUILT
        before = len(site.seen)
        assert served.build().outcomes() == _REUSED
        served.edit("net", "max: [8,", "max: [16,")
        assert served.build().outcomes() == _BUILT
        assert len(site.seen) == before


def test_a_wrong_digest_fails_and_keeps_nothing(served: Forge, tmp_path: Path) -> None:
    with web_server.site() as site:
        site.files["/net.onnx"] = (tmp_path / "away.onnx").read_bytes()
        url = f"{site.url}/net.onnx"
        digest = "f" * 64
        served.spec("net", SPEC.replace("path: models/net.onnx", f"url: '{url}', sha256: {digest}"))
        result = served.build()
    assert (result.code, result.outcomes()) == (1, {"fp32@ada": "failed"})
    assert digest in result.json["variants"][0]["error"]
    assert entries(served, "source") == []


def test_a_page_about_the_model_is_no_model(served: Forge) -> None:
    page = b"<!doctype html><html>net.onnx, 0.1 MB</html>"
    with web_server.site() as site:
        site.files["/net.onnx"] = page
        url = f"{site.url}/net.onnx"
        digest = digest_bytes(page).hex
        served.spec("net", SPEC.replace("path: models/net.onnx", f"url: '{url}', sha256: {digest}"))
        (variant,) = served.build().json["variants"]
    assert variant["outcome"] == "failed"
    assert "/net.onnx' is no sound ONNX model" in variant["error"]
    assert entries(served, "source") == []


def test_what_nothing_pins_is_refused_until_it_is_locked(served: Forge, tmp_path: Path) -> None:
    with web_server.site() as site:
        site.files["/net.onnx"] = (tmp_path / "away.onnx").read_bytes()
        url = f"{site.url}/net.onnx"
        served.spec("net", SPEC.replace("path: models/net.onnx", f"url: '{url}'"))
        refused = served.run("build", "specs")
        assert refused.code == 2
        assert "engineforge lock" in refused.err
        assert served.run("lock", "specs").code == 0
        assert served.build("--locked").outcomes() == _BUILT
    assert served.build("--locked").outcomes() == _REUSED


def test_locked_refuses_a_lock_file_that_says_more_than_the_specs(
    served: Forge, tmp_path: Path
) -> None:
    with web_server.site() as site:
        site.files["/net.onnx"] = (tmp_path / "away.onnx").read_bytes()
        url = f"{site.url}/net.onnx"
        served.spec("net", SPEC.replace("path: models/net.onnx", f"url: '{url}'"))
        served.run("lock", "specs")
        served.spec("other", SPEC.replace("path: models/net.onnx", f"url: '{url}?v=2'"))
        missing = served.run("build", "specs", "--locked")
        assert missing.code == 2
        assert "does not say which file this is" in missing.err
        for name in ("other", "net"):
            (served.specs / f"{name}.yaml").unlink()
        shutil.copy(tmp_path / "away.onnx", served.model)
        served.spec("net", SPEC)
        unused = served.run("build", "specs", "--locked")
    assert unused.code == 2
    assert "no spec names" in unused.err


def test_the_order_of_outputs_is_in_the_key(forge: Forge) -> None:
    names = [node.output[0] for node in onnx.load(forge.model).graph.node]
    prepare(forge, f"{{outputs: ['{names[-1]}', '{names[0]}']}}")
    assert forge.build().outcomes() == _BUILT
    forge.edit("net", f"['{names[-1]}', '{names[0]}']", f"['{names[0]}', '{names[-1]}']")
    assert forge.build().outcomes() == _BUILT
    assert len(entries(forge, "prepared")) == 2


def test_external_data_cannot_take_the_place_of_the_model(served: Forge) -> None:
    pins = f"sha256: {'a' * 64}"
    external = f"external: [{{url: 'https://example.org/model.onnx', {pins}}}]"
    source = f"url: 'https://example.org/net.onnx', {pins}, {external}"
    served.spec("net", SPEC.replace("path: models/net.onnx", source))
    result = served.run("plan", "specs")
    assert result.code == 2
    assert "there is a file 'model.onnx' beside it already" in result.err
