"""What is pulled of an environment in a folder, what is refused, and what lies there meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("cryptography", reason="python -m pip install 'engineforge[promotion]'")

from engineforge.digest import Digest, digest_bytes
from engineforge.errors import HostUnfit, PromotionRefused, StoreCorrupt, Untrusted, UsageError
from engineforge.promotion.environment import Opened
from engineforge.promotion.oci.documents import Descriptor
from engineforge.promotion.oci.repository import BlobCorrupt
from engineforge.promotion.placing import Place
from engineforge.promotion.pulling import LoadFailed, Pulled, pull
from engineforge.runtime.engine_file import read_engine
from engineforge.store import disk
from engineforge.store.manifest import Manifest
from tests.promotion.shelf import NOW, TARGET, Shelf

OLD, NEW = b"old engine" * 5000, b"new engine!" * 5000


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    folder = tmp_path / "server"
    folder.mkdir()
    return folder / "model.engine"


def pulled(shelf: Shelf, output: Path, opened: Opened | None = None, **more: Any) -> Pulled:  # noqa: ANN401
    calls = {name: more.pop(name) for name in ("load", "loaded", "said", "moved") if name in more}
    return pull(opened or shelf.open(), shelf.wanted(output, **more), now=NOW, **calls)


def around(output: Path) -> set[str]:
    """What lies in its folder."""
    return {each.name for each in output.parent.iterdir()}


def test_an_engine_is_pulled_with_what_it_is_verified_by(shelf: Shelf, output: Path) -> None:
    shelf.promote(shelf.artifact(OLD))
    found = pulled(shelf, output)
    assert output.read_bytes() == OLD
    assert read_engine(output).sha256 == found.engine == digest_bytes(OLD)
    assert around(output) == {"model.engine", "manifest.json", "model.engine.pulled.json"}
    assert (found.name, found.number, found.changed) == ("staging/ocr fp16@h200", 1, True)
    assert found.why == "built for 'NVIDIA H200'"


def test_it_is_pulled_into_a_folder(shelf: Shelf, output: Path) -> None:
    shelf.promote(shelf.artifact(OLD))
    assert pulled(shelf, output.parent).path == output
    assert read_engine(output.parent).sha256 == digest_bytes(OLD)


def test_engines_of_other_names_have_manifests_of_their_own(shelf: Shelf, output: Path) -> None:
    shelf.promote(shelf.artifact(OLD))
    plan = output.with_name("ocr.plan")
    found = pulled(shelf, plan)
    manifest = Manifest.from_bytes(plan.with_name("ocr.plan.manifest.json").read_bytes())
    assert manifest.files["model.engine"].sha256 == found.engine
    assert "manifest.json" not in around(output)


def test_what_is_there_already_is_not_fetched(shelf: Shelf, output: Path) -> None:
    artifact = shelf.artifact(OLD)
    state = shelf.promote(artifact)
    pulled(shelf, output)
    shelf.blob(state.engines[0].engine).unlink()
    found = pulled(shelf, output)
    assert not found.changed
    assert found.engine == digest_bytes(OLD)


def test_a_lost_manifest_is_put_back_without_fetching_the_engine(
    shelf: Shelf, output: Path
) -> None:
    state = shelf.promote(shelf.artifact(OLD))
    pulled(shelf, output)
    shelf.blob(state.engines[0].engine).unlink()
    output.with_name("manifest.json").unlink()
    assert not pulled(shelf, output).changed
    assert read_engine(output).sha256 == digest_bytes(OLD)


def test_an_engine_that_was_changed_on_disk_is_pulled_again(shelf: Shelf, output: Path) -> None:
    shelf.promote(shelf.artifact(OLD))
    pulled(shelf, output)
    output.write_bytes(OLD[:-1] + b"!")
    assert pulled(shelf, output).changed
    assert output.read_bytes() == OLD


def test_a_promotion_and_a_rollback_are_both_one_more_event(shelf: Shelf, output: Path) -> None:
    old, new = shelf.artifact(OLD), shelf.artifact(NEW)
    found = []
    for artifact, action in ((old, "promote"), (new, "promote"), (old, "rollback")):
        shelf.promote(artifact, action=action)  # type: ignore[arg-type]
        found.append((pulled(shelf, output).number, output.read_bytes()))
    assert found == [(1, OLD), (2, NEW), (3, OLD)]


def test_a_spec_with_a_slash_in_its_name_is_pulled(shelf: Shelf, output: Path) -> None:
    shelf.promote(shelf.artifact(OLD, spec="vision/ocr"), spec="vision/ocr")
    assert pulled(shelf, output, spec="vision/ocr").spec == "vision/ocr"


def test_a_spec_that_was_never_promoted_is_told(shelf: Shelf, output: Path) -> None:
    with pytest.raises(UsageError, match="'staging' has no spec 'ocr'"):
        pulled(shelf, output)
    assert around(output) == set()


def test_where_no_engine_runs_nothing_is_changed(shelf: Shelf, output: Path) -> None:
    shelf.promote(shelf.artifact(OLD))
    host = shelf.wanted(output).host
    assert host is not None
    with pytest.raises(HostUnfit, match=r"h200 \(fp16\): it is for 'NVIDIA H200', and this host"):
        pulled(shelf, output, host=replace(host, gpus=[]))
    assert around(output) == set()


def test_the_engine_of_a_target_is_fetched_for_another_host(shelf: Shelf, output: Path) -> None:
    other = {**TARGET, "gpu": {**TARGET["gpu"], "name": "NVIDIA H100"}}
    shelf.promote(shelf.artifact(OLD), shelf.artifact(NEW, "fp16@h100", target=other))
    pulled(shelf, output, host=None, target="h100")
    assert output.read_bytes() == NEW


# What is refused.


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


@pytest.mark.parametrize("what", ["engine", "config", "manifest"])
def test_a_flipped_byte_is_refused_and_the_old_engine_stays(
    shelf: Shelf, output: Path, what: str
) -> None:
    shelf.promote(shelf.artifact(OLD))
    pulled(shelf, output)
    before = {name: output.with_name(name).read_bytes() for name in around(output)}
    listed = shelf.promote(shelf.artifact(NEW)).engines[0]
    artifact = shelf.open().engine(listed)
    digests = {
        "engine": listed.engine,
        "config": artifact.config.digest,
        "manifest": listed.manifest,
    }
    flip(shelf.blob(digests[what]))
    with pytest.raises(BlobCorrupt):
        pulled(shelf, output)
    assert {name: output.with_name(name).read_bytes() for name in around(output)} == before


def test_a_repository_that_gives_other_bytes_is_not_believed(shelf: Shelf, output: Path) -> None:
    listed = shelf.promote(shelf.artifact(NEW)).engines[0]

    class Lying:
        """Says of no blob that it is another one."""

        def __init__(self, inner: Any) -> None:  # noqa: ANN401
            self._inner = inner

        def __getattr__(self, name: str) -> Any:  # noqa: ANN401
            return getattr(self._inner, name)

        def stream(self, blob: Descriptor) -> Iterator[bytes]:
            if blob.digest == listed.engine:
                yield OLD[: len(NEW)].ljust(len(NEW))
            else:
                yield from self._inner.stream(blob)

    opened = shelf.open()
    opened.repository = Lying(opened.repository)
    with pytest.raises(StoreCorrupt, match="is another: what came is sha256:"):
        pulled(shelf, output, opened)
    assert around(output) == set()


def test_a_ledger_that_was_set_back_with_its_numbers_is_refused(shelf: Shelf, output: Path) -> None:
    """Whoever can write to the store can make it look as it was; this machine saw more."""
    first = shelf.promote(shelf.artifact(OLD))
    shelf.promote(shelf.artifact(NEW))
    pulled(shelf, output)
    repository = shelf.open().repository
    repository.tag("ocr", first.index)
    repository.untag("ocr--2")
    with pytest.raises(Untrusted) as error:
        pulled(shelf, output)
    assert str(error.value) == (
        "the ledger of 'staging/ocr' was set back: it is at number 1, and number 2 was pulled to "
        f"'{output}' before\nhint: a rollback is one more event, so this is none: look at the "
        f"registry's log; if that is meant, remove '{output}.pulled.json' and pull again"
    )
    assert output.read_bytes() == NEW
    output.with_name("model.engine.pulled.json").unlink()
    assert pulled(shelf, output).number == 1


def test_a_pointer_that_was_set_back_is_refused(shelf: Shelf, output: Path) -> None:
    first = shelf.promote(shelf.artifact(OLD))
    shelf.promote(shelf.artifact(NEW))
    shelf.open().repository.tag("ocr", first.index)
    with pytest.raises(Untrusted, match="there is a later one"):
        pulled(shelf, output)


def test_a_rewritten_ledger_is_refused(shelf: Shelf, output: Path) -> None:
    first = shelf.promote(shelf.artifact(OLD))
    shelf.promote(shelf.artifact(NEW))
    pulled(shelf, output)
    repository = shelf.open().repository
    repository.tag("ocr", first.index)
    repository.untag("ocr--2")
    shelf.promote(shelf.artifact(OLD))
    shelf.promote(shelf.artifact(NEW))
    with pytest.raises(Untrusted, match="was rewritten: its event 2 is another than was pulled"):
        pulled(shelf, output)


def test_what_was_pulled_last_must_be_readable(shelf: Shelf, output: Path) -> None:
    shelf.promote(shelf.artifact(OLD))
    pulled(shelf, output)
    output.with_name("model.engine.pulled.json").write_text("{}")
    with pytest.raises(Untrusted, match="does not say what was pulled last"):
        pulled(shelf, output)


def test_what_was_seen_is_known_of_each_spec(shelf: Shelf, output: Path) -> None:
    first = shelf.promote(shelf.artifact(OLD))
    shelf.promote(shelf.artifact(NEW))
    pulled(shelf, output)
    shelf.promote(shelf.artifact(OLD, spec="other"), spec="other")
    pulled(shelf, output, spec="other")
    repository = shelf.open().repository
    repository.tag("ocr", first.index)
    repository.untag("ocr--2")
    with pytest.raises(Untrusted, match="was set back"):
        pulled(shelf, output)


def test_an_event_that_nobody_who_may_promote_signed_is_refused(shelf: Shelf, output: Path) -> None:
    with pytest.raises(Untrusted, match="signed by eve, who may not promote"):
        shelf.promote(shelf.artifact(OLD), key="eve")


def test_an_engine_that_was_let_in_by_looser_gates_is_refused(shelf: Shelf, output: Path) -> None:
    shelf.write("freshness: {}")
    shelf.promote(shelf.artifact(OLD))
    shelf.write("freshness: {}, load_test: {}")
    with pytest.raises(PromotionRefused) as error:
        pulled(shelf, output)
    assert str(error.value) == (
        "fp16@h200 of 'staging/ocr' was let in by less than 'staging' asks for: 'load_test' was "
        "not asked for\nhint: promote it by today's gates: engineforge promote "
        "specs/ocr.yaml --to staging --key KEY"
    )


def test_an_engine_that_a_gate_did_not_let_in_is_refused(shelf: Shelf, output: Path) -> None:
    state = shelf.promote(shelf.artifact(OLD))
    opened = shelf.open()
    failed = {
        name: replace(verdict, passed=False) for name, verdict in state.engines[0].gates.items()
    }
    engines = [replace(state.engines[0], gates=failed)]
    event = shelf.event(state, engines, "ocr", "promote")
    opened.advance(state, event, state.described, shelf.keys["ci"])
    with pytest.raises(Untrusted, match="the gate 'provenance' did not let it in"):
        pulled(shelf, output)


def test_without_gates_nothing_is_pulled(shelf: Shelf, output: Path) -> None:
    shelf.promote(shelf.artifact(OLD))
    shelf.write("")
    with pytest.raises(PromotionRefused, match="'staging' has no gates"):
        pulled(shelf, output)


def test_lost_provenance_is_refused(shelf: Shelf, output: Path) -> None:
    shelf.promote(shelf.artifact(OLD), attested=False)
    with pytest.raises(Untrusted) as error:
        pulled(shelf, output)
    assert str(error.value) == (
        "fp16@h200 of 'staging/ocr': nobody who counts says how it was built; it was let in with "
        "provenance, which is gone, or counts no longer\n"
        "hint: attach it again: engineforge promote specs/ocr.yaml --to staging --key KEY"
    )


def test_provenance_of_a_signer_who_does_not_count_is_refused(shelf: Shelf, output: Path) -> None:
    shelf.promote(shelf.artifact(OLD), by="eve")
    with pytest.raises(Untrusted, match="'eve' is not 'ci'"):
        pulled(shelf, output)


def test_provenance_of_another_engine_does_not_count(shelf: Shelf, output: Path) -> None:
    other = shelf.promote(shelf.artifact(NEW), spec="ocr").engines[0]
    state = shelf.promote(shelf.artifact(OLD), attested=False)
    opened = shelf.open()
    mine = state.described[state.engines[0].manifest]
    shelf.attest(opened, mine, other)
    said: list[str] = []
    with pytest.raises(Untrusted, match="nobody who counts says how it was built"):
        pulled(shelf, output, shelf.open(said))
    assert "it is about another engine" in said[0]


def test_provenance_after_its_signers_key_expired_is_refused(shelf: Shelf, output: Path) -> None:
    shelf.promote(shelf.artifact(OLD))
    shelf.write(not_after=(NOW - timedelta(days=9)).date())
    pulled(shelf, output)
    shelf.write(not_after=(NOW - timedelta(days=30)).date())
    with pytest.raises(Untrusted):
        pulled(shelf, output)


def test_an_overridden_gate_is_told(shelf: Shelf, output: Path) -> None:
    shelf.promote(shelf.artifact(OLD), overridden={"freshness": "the specs ask for another engine"})
    said: list[str] = []
    found = pulled(shelf, output, said=said.append)
    assert found.overridden == {"freshness": "the specs ask for another engine"}
    assert said == [
        "note: fp16@h200 of 'staging/ocr' did not pass, and was let in all the same: 'freshness' "
        "(the specs ask for another engine)"
    ]


def test_an_overridden_gate_can_be_refused(shelf: Shelf, output: Path) -> None:
    shelf.promote(shelf.artifact(OLD), overridden={"freshness": "stale"})
    with pytest.raises(PromotionRefused, match="did not pass, and was let in all the same"):
        pulled(shelf, output, no_overridden=True)
    assert around(output) == set()


def test_overridden_provenance_need_not_be_there(shelf: Shelf, output: Path) -> None:
    shelf.promote(shelf.artifact(OLD), attested=False, overridden={"provenance": "nobody signed"})
    assert pulled(shelf, output).overridden == {"provenance": "nobody signed"}


# What lies there meanwhile.


def test_a_manifest_of_something_else_is_not_overwritten(shelf: Shelf, output: Path) -> None:
    shelf.promote(shelf.artifact(OLD))
    output.with_name("manifest.json").write_text('{"name": "a web site"}')
    with pytest.raises(UsageError, match="belongs to no engine: it would be overwritten"):
        pulled(shelf, output)
    assert around(output) == {"manifest.json"}


def test_a_folder_that_is_not_there_is_told(shelf: Shelf, tmp_path: Path) -> None:
    shelf.promote(shelf.artifact(OLD))
    with pytest.raises(UsageError, match="there is no folder"):
        pulled(shelf, tmp_path / "nowhere" / "model.engine")


def test_a_disk_without_room_is_told_before_anything_is_fetched(
    shelf: Shelf, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.promote(shelf.artifact(OLD))

    class Full:
        f_bavail, f_frsize = 5, 4096

    monkeypatch.setattr(os, "statvfs", lambda _: Full)
    with pytest.raises(HostUnfit, match=f"has 20480 bytes left, and the engine has {len(OLD)}"):
        pulled(shelf, output)
    assert around(output) == set()


def test_a_reader_sees_the_old_engine_or_the_new_one(shelf: Shelf, output: Path) -> None:
    artifacts = [shelf.artifact(OLD), shelf.artifact(NEW)]
    shelf.promote(artifacts[0])
    pulled(shelf, output)
    seen, stop = set(), threading.Event()

    def read() -> None:
        while not stop.is_set():
            seen.add(digest_bytes(output.read_bytes()))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for at in range(1, 8):
            shelf.promote(artifacts[at % 2])
            assert pulled(shelf, output).changed
    finally:
        stop.set()
        reader.join()
    assert seen == {digest_bytes(OLD), digest_bytes(NEW)}


def test_two_pulls_at_once_to_one_file_fetch_it_once(shelf: Shelf, output: Path) -> None:
    shelf.promote(shelf.artifact(OLD))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: pulled(shelf, output), range(4)))
    assert sorted(each.changed for each in found) == [False, False, False, True]
    assert output.read_bytes() == OLD
    assert around(output) == {"model.engine", "manifest.json", "model.engine.pulled.json"}


_KILLED = """
import sys, time
from pathlib import Path
from engineforge.promotion.environment import open_environment
from engineforge.promotion.pulling import pull
from engineforge.spec.environments import read_environments
from tests.promotion.shelf import NOW, HERE
from engineforge.promotion.pulling import Wanted

def moved(done, total):
    print(done, flush=True)
    time.sleep(60)

file = Path(sys.argv[1])
opened = open_environment(read_environments(file)["staging"], root=file.parent, environ={})
pull(opened, Wanted(spec="ocr", output=Path(sys.argv[2]), host=HERE), now=NOW, moved=moved)
"""


def test_a_pull_that_was_killed_leaves_the_old_engine_and_is_cleaned_up(
    shelf: Shelf, output: Path
) -> None:
    shelf.promote(shelf.artifact(OLD))
    pulled(shelf, output)
    before = {name: output.with_name(name).read_bytes() for name in around(output)}
    shelf.promote(shelf.artifact(NEW))
    process = subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(shelf.file), str(output)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    assert int(process.stdout.readline()) > 0
    process.send_signal(signal.SIGKILL)
    process.communicate()
    left = around(output) - before.keys()
    assert any(each.startswith(".model.engine.pull-") for each in left)
    assert {name: output.with_name(name).read_bytes() for name in before} == before
    assert read_engine(output).sha256 == digest_bytes(OLD)
    assert pulled(shelf, output).changed
    assert around(output) == before.keys()


def test_a_pull_that_died_between_engine_and_manifest_is_put_right(
    shelf: Shelf, output: Path
) -> None:
    shelf.promote(shelf.artifact(OLD))
    pulled(shelf, output)
    manifest = output.with_name("manifest.json").read_bytes()
    state = shelf.promote(shelf.artifact(NEW))
    pulled(shelf, output)
    output.with_name("manifest.json").write_bytes(manifest)
    shelf.blob(state.engines[0].engine).unlink()
    assert not pulled(shelf, output).changed
    assert read_engine(output).sha256 == digest_bytes(NEW)


class Dead(BaseException):
    """The end of a process, before a change on disk."""


def test_a_pull_that_dies_before_any_change_on_disk_leaves_an_engine_with_its_manifest(
    shelf: Shelf, output: Path
) -> None:
    artifacts = [shelf.artifact(OLD), shelf.artifact(NEW)]
    shelf.promote(artifacts[0])
    pulled(shelf, output)
    manifests = {artifacts[at].blobs[0][1].read_bytes(): data for at, data in ((0, OLD), (1, NEW))}
    for at in range(1, 1000):
        shelf.promote(artifacts[at % 2])
        before, left = output.read_bytes(), at

        def die(change: disk.Change) -> None:
            nonlocal left
            left -= 1
            if left <= 0 and output.parent in change.path.parents:
                raise Dead

        try:
            with disk.watched(die):
                pulled(shelf, output)
        except Dead:
            pass
        else:
            assert at > 15
            break
        there = [output.with_name(name) for name in ("manifest.json", "manifest.json.next")]
        data = output.read_bytes()
        assert data in (OLD, NEW)
        assert data in [manifests[each.read_bytes()] for each in there if each.is_file()]
        assert pulled(shelf, output).changed is (data == before)
        assert manifests[there[0].read_bytes()] == output.read_bytes() == (OLD, NEW)[at % 2]
        assert around(output) == {"model.engine", "manifest.json", "model.engine.pulled.json"}


# Servers.


def test_a_new_engine_is_loaded_before_it_takes_the_place(shelf: Shelf, output: Path) -> None:
    shelf.promote(shelf.artifact(OLD))
    pulled(shelf, output)
    shelf.promote(shelf.artifact(NEW))

    def load(path: Path) -> tuple[Digest, bytes]:
        return read_engine(path).sha256, output.read_bytes()

    found = pulled(shelf, output, load=load)
    assert found.loaded == (digest_bytes(NEW), OLD)
    assert output.read_bytes() == NEW


def test_an_engine_that_does_not_load_leaves_the_old_one(shelf: Shelf, output: Path) -> None:
    shelf.promote(shelf.artifact(OLD))
    pulled(shelf, output)
    before = {name: output.with_name(name).read_bytes() for name in around(output)}
    shelf.promote(shelf.artifact(NEW))

    def load(_: Path) -> None:
        raise RuntimeError("out of GPU memory")

    with pytest.raises(LoadFailed) as error:
        pulled(shelf, output, load=load)
    assert str(error.value) == (
        "the new engine of staging/ocr fp16@h200, number 2, does not load: out of GPU memory\n"
        f"hint: '{output}' is what it was before"
    )
    assert {name: output.with_name(name).read_bytes() for name in around(output)} == before


def test_an_engine_that_is_there_is_loaded_too_whatever_it_is_called(
    shelf: Shelf, output: Path
) -> None:
    shelf.promote(shelf.artifact(OLD))
    plan = output.with_name("ocr.plan")
    pulled(shelf, plan)
    found = pulled(shelf, plan, load=lambda path: read_engine(path).sha256)
    assert (found.changed, found.loaded) == (False, digest_bytes(OLD))


def test_what_is_loaded_already_is_not_loaded_again(shelf: Shelf, output: Path) -> None:
    shelf.promote(shelf.artifact(OLD))
    first = pulled(shelf, output, load=lambda _: "loaded")
    again = pulled(shelf, output, load=lambda _: "twice", loaded=first.engine)
    assert (first.loaded, again.loaded) == ("loaded", None)


def test_the_engine_before_is_kept_for_whoever_has_to_fall_back(shelf: Shelf, output: Path) -> None:
    for data in (OLD, NEW):
        shelf.promote(shelf.artifact(data))
        pulled(shelf, output, load=lambda path: path)
    assert output.with_name("model.engine.previous").read_bytes() == OLD
    assert Place(output).fall_back()
    assert read_engine(output).sha256 == digest_bytes(OLD)
    assert pulled(shelf, output).changed
    assert output.read_bytes() == NEW


def test_there_is_nothing_to_fall_back_to_at_first(shelf: Shelf, output: Path) -> None:
    shelf.promote(shelf.artifact(OLD))
    pulled(shelf, output)
    assert not Place(output).fall_back()
    assert output.read_bytes() == OLD


def test_what_was_pulled_is_told_in_json_for_people_and_machines(
    shelf: Shelf, output: Path
) -> None:
    shelf.promote(shelf.artifact(OLD))
    found = pulled(shelf, output)
    said = json.loads(output.with_name("model.engine.pulled.json").read_bytes())
    assert said["engine"]["engine"] == found.engine
    assert said["seen"]["staging/ocr"]["number"] == 1
    assert said["engine"]["pulled"] == "2026-11-21T12:00:00Z"
