"""`engineforge gc`: what it takes, what it says, and what it refuses."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from engineforge.cli.gc import _bytes, _seconds
from tests.conftest import SPEC, Forge, Result
from tests.models import convnet
from tests.worker.conftest import chain, outcomes, says

_DAY = 86_400


def _collected(forge: Forge, *args: str) -> Result:
    result = forge.run("gc", "specs", "--json", *args)
    assert result.code == 0, result.err
    return result


def _removed(result: Result) -> list[str]:
    return sorted(each["stage"] for each in result.json["removed"])


@pytest.fixture
def rebuilt(built: Forge) -> Forge:
    """One engine whose plan is no longer current, and one whose is."""
    built.edit("net", "max: [8, 3", "max: [9, 3")
    assert built.build().code == 0
    return built


def test_what_the_specs_need_is_kept(built: Forge) -> None:
    result = _collected(built)
    assert result.json["removed"] == []
    kept = {each["stage"]: each["by"] for each in result.json["kept"]}
    assert kept == {stage: ["plan of net/fp32@ada"] for stage in ("onnx", "engine")}
    assert built.build().outcomes() == {"fp32@ada": "reused"}


def test_an_engine_of_a_former_spec_goes_to_the_trash(rebuilt: Forge) -> None:
    result = _collected(rebuilt)
    (removed,) = result.json["removed"]
    assert (removed["stage"], removed["label"]) == ("engine", "net/fp32@ada")
    assert removed["why"].startswith("nothing holds it; last used 0 min ago")
    assert len(rebuilt.engines()) == 1
    assert len(list(rebuilt.cache.glob("trash/engine/*/model.engine"))) == 1
    assert rebuilt.build().outcomes() == {"fp32@ada": "reused"}


def test_the_former_spec_gets_its_engine_back(rebuilt: Forge) -> None:
    _collected(rebuilt)
    rebuilt.edit("net", "max: [9, 3", "max: [8, 3")
    (variant,) = rebuilt.build().json["variants"]
    assert variant["outcome"] == "reused"
    assert variant["why"] == "taken back from the trash"
    assert rebuilt.run("verify").code == 0


def test_a_stale_variant_keeps_its_last_engine_until_the_next_is_built(built: Forge) -> None:
    built.edit("net", "max: [8, 3", "max: [9, 3")
    assert _removed(_collected(built)) == []
    assert built.changes() == {"fp32@ada": ["profiles[0].image.shape.max[0]"]}
    built.build()
    assert _removed(_collected(built)) == ["engine"]


def test_what_is_only_prepared_is_kept(forge: Forge) -> None:
    assert forge.build("--prepare").code == 0
    assert [each["stage"] for each in _collected(forge).json["kept"]] == ["onnx"]


def test_a_dry_run_says_what_would_go_and_what_holds_the_rest(rebuilt: Forge) -> None:
    before = sorted(rebuilt.cache.rglob("*.engine"))
    result = rebuilt.run("gc", "specs", "--dry-run")
    goes, *kept = result.out.splitlines()
    assert goes.startswith("goes  engine ")
    assert goes.endswith("net/fp32@ada: nothing holds it; last used 0 min ago")
    assert [line.partition(": ")[2] for line in kept] == ["plan of net/fp32@ada"] * 2
    assert "1 entry (" in result.err
    assert "would be moved to the trash" in result.err
    assert sorted(rebuilt.cache.rglob("*.engine")) == before


def test_the_trash_is_emptied_after_a_time_of_grace(rebuilt: Forge) -> None:
    _collected(rebuilt)
    assert _collected(rebuilt).json["purged"] == []
    time.sleep(1.1)
    purged = {
        each["path"].partition("/")[0]
        for each in _collected(rebuilt, "--grace", "1s").json["purged"]
    }
    assert purged == {"engine", "plans"}
    assert list(rebuilt.cache.glob("trash/*/*")) == []


def test_without_grace_it_is_removed_at_once(rebuilt: Forge) -> None:
    result = _collected(rebuilt, "--grace", "0")
    assert result.json["bytes"]["purged"] >= result.json["bytes"]["removed"] > 0
    assert list(rebuilt.cache.glob("trash/*/*")) == []


def test_the_last_engines_of_a_variant_can_be_kept(rebuilt: Forge) -> None:
    assert _removed(_collected(rebuilt, "--keep-last", "2")) == []
    assert _removed(_collected(rebuilt, "--keep-last", "1")) == ["engine"]


def test_what_was_used_lately_can_be_kept(rebuilt: Forge) -> None:
    assert _removed(_collected(rebuilt, "--older-than", "30d")) == []
    for engine in rebuilt.engines():
        ago = time.time() - 31 * _DAY
        os.utime(engine.parent, (ago, ago))
    assert _removed(_collected(rebuilt, "--older-than", "30d")) == ["engine"]
    assert rebuilt.build().outcomes() == {"fp32@ada": "reused"}


def test_a_size_is_reached_as_far_as_what_is_held_allows(rebuilt: Forge) -> None:
    assert _removed(_collected(rebuilt, "--max-size", "1GiB")) == []
    result = rebuilt.run("gc", "specs", "--max-size", "1KiB")
    assert result.out.startswith("gone  engine ")
    assert "note: more than 1.0 KiB is left: what specs, pins and running processes hold" in (
        result.err
    )


def test_a_pinned_plan_is_kept_until_it_is_unpinned(built: Forge) -> None:
    assert built.run("cache", "pin", "net/fp32@ada").code == 0
    built.edit("net", "max: [8, 3", "max: [9, 3")
    built.build()
    assert _removed(_collected(built)) == []
    assert built.run("cache", "unpin", "net/fp32@ada").code == 0
    assert _removed(_collected(built)) == ["engine"]


def test_a_pin_that_cannot_be_read_stops_it(built: Forge) -> None:
    built.run("cache", "pin", "net/fp32@ada")
    (pin,) = built.cache.glob("pins/*.json")
    pin.write_text("{}")
    result = built.run("gc", "specs")
    assert result.code == 4
    assert "what it holds is not known" in result.err


def test_specs_with_problems_hold_what_is_not_known(rebuilt: Forge) -> None:
    rebuilt.edit("net", "precision", "precison")
    result = rebuilt.run("gc", "specs")
    assert result.code == 2
    assert len(rebuilt.engines()) == 2


def test_some_of_the_specs_are_not_all(built: Forge) -> None:
    built.spec("other", SPEC.replace("8, 3", "7, 3").replace("4, 3", "5, 3"))
    built.build()
    result = built.run("gc", "specs/net.yaml")
    assert result.code == 2
    assert "only 1 of the 2 specs in 'specs' were given" in result.err
    assert "such as that of 'specs/other.yaml'" in result.err
    assert len(built.engines()) == 2
    removed = built.run("gc", "specs/net.yaml", "--partial", "--json").json["removed"]
    assert [each["label"] for each in removed] == ["other/fp32@ada"]


def test_specs_with_different_caches_are_collected_apart(built: Forge, tmp_path: Path) -> None:
    other = tmp_path / "other" / "specs"
    shutil.copytree(built.specs, other)
    assert "different caches" in built.run("gc", "specs", other).err


@pytest.fixture
def other(built: Forge, tmp_path: Path) -> Path:
    """The specs of another project, which builds into the same cache."""
    other = tmp_path / "other" / "specs"
    (other / "models").mkdir(parents=True)
    convnet(other / "models" / "net.onnx")
    (other / "targets.yaml").write_text((built.specs / "targets.yaml").read_text())
    (other / "more.yaml").write_text(SPEC.replace("max: [8", "max: [7"))
    assert built.run("build", other, "--cache", "cache").code == 0
    return other


def _of_more(result: Result) -> list[str]:
    """What keeps the engine of the other project."""
    (found,) = (each["by"] for each in result.json["kept"] if each["label"] == "more/fp32@ada")
    return list(found)


def test_what_another_project_needs_is_kept_though_it_was_not_given(
    built: Forge, other: Path
) -> None:
    result = _collected(built)
    assert _removed(result) == []
    assert _of_more(result) == ["plan of more/fp32@ada"]


def test_what_another_project_no_longer_needs_goes(built: Forge, other: Path) -> None:
    (other / "more.yaml").write_text(SPEC.replace("max: [8", "max: [6"))
    assert built.run("build", other, "--cache", "cache").code == 0
    assert _removed(_collected(built)) == ["engine"]


def test_another_project_counts_when_all_that_it_needs_was_there_already(
    rebuilt: Forge, tmp_path: Path
) -> None:
    """It built nothing: its specs are what the specs of the first were formerly."""
    other = tmp_path / "other" / "specs"
    shutil.copytree(rebuilt.specs, other)
    rebuilt.edit("net", "max: [9, 3", "max: [7, 3")
    assert rebuilt.run("build", other, "--cache", "cache", "--json").outcomes() == {
        "fp32@ada": "reused"
    }
    rebuilt.build()
    assert len(_collected(rebuilt).json["removed"]) == 1, "the engine that both left behind"


def test_what_a_project_needed_that_is_gone_is_kept_until_it_is_forgotten(
    built: Forge, other: Path
) -> None:
    shutil.rmtree(other)
    result = _collected(built)
    assert _removed(result) == []
    assert _of_more(result) == [f"last plan of more/fp32@ada of '{other}', which is gone"]
    assert f"note: '{other}', which built into this cache, is gone" in result.err
    forgotten = ("--forget", str(other))
    assert _removed(_collected(built, *forgotten, "--dry-run")) == ["engine"]
    assert _removed(_collected(built)) == [], "a dry run forgets nothing"
    assert _removed(_collected(built, *forgotten)) == ["engine"]
    result = built.run("gc", "specs", *forgotten)
    assert result.code == 2
    assert f"--forget: no project at '{other}'" in result.err


def test_another_project_with_problems_needs_what_is_not_known(built: Forge, other: Path) -> None:
    (other / "more.yaml").write_text(SPEC.replace("precision", "precison"))
    result = built.run("gc", "specs")
    assert result.code == 2
    assert f"{other / 'more.yaml'}:" in result.err
    assert f"'{other}' builds into this cache, too, and has problems" in result.err
    assert built.run("gc", "specs", "--forget", other).code == 0


def test_a_link_to_the_given_specs_is_no_other_project(built: Forge, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(built.specs)
    assert built.run("build", tmp_path / "link", "--cache", "cache").code == 0
    built.spec("other", SPEC.replace("8, 3", "7, 3").replace("4, 3", "5, 3"))
    built.build()
    assert _removed(_collected(built, "--partial")) == []
    removed = built.run("gc", "specs/net.yaml", "--partial", "--json").json["removed"]
    assert [each["label"] for each in removed] == ["other/fp32@ada"]


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (("--older-than", "soon"), "--older-than: 'soon' is no time"),
        (("--max-size", "50"), "--max-size: '50' is no size"),
        (("--grace", "1"), "--grace: '1' is no time"),
        (("--grace", "9" * 400 + "w"), "is no time"),
        (("--max-size", "9" * 400 + "TB"), "is no size"),
    ],
)
def test_times_and_sizes_have_units(built: Forge, option: tuple[str, str], said: str) -> None:
    result = built.run("gc", "specs", *option)
    assert result.code == 2
    assert said in result.err


def test_without_a_cache_there_is_nothing_to_collect(forge: Forge) -> None:
    result = forge.run("gc", "specs")
    assert result.code == 2
    assert "there is no cache at 'cache'" in result.err


def test_what_a_running_build_relies_on_is_kept(built: Forge) -> None:
    chain(built, "slow", 2000)
    process = built.process("build", "specs/slow.yaml", "--json")
    says(process, "slow/fp32@ada: building")
    (built.specs / "slow.yaml").rename(built.root / "slow.yaml")
    kept = {each["stage"]: each["by"][0] for each in _collected(built).json["kept"]}
    assert process.poll() is None
    assert len([each for each in _collected(built).json["kept"] if each["stage"] == "onnx"]) == 2
    assert kept.keys() == {"onnx", "engine"}
    assert outcomes(process)["slow/fp32@ada"]["outcome"] == "built"
    assert _removed(_collected(built)) == ["engine", "onnx"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("50GB", 50 * 1000**3), ("50GiB", 50 << 30), ("5gib", 5 << 30), ("1.5 kB", 1500), ("0", 0)],
)
def test_sizes_are_decimal_or_binary_as_they_are_written(text: str, expected: int) -> None:
    assert _bytes("--max-size", text) == expected


@pytest.mark.parametrize(("text", "expected"), [("30D", 30 * 86_400), ("90min", 5400), ("0", 0)])
def test_ages_are_in_seconds(text: str, expected: float) -> None:
    assert _seconds("--older-than", text) == expected
