"""The commands of promotion as people meet them: what they ask for, refuse and say."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("cryptography", reason="python -m pip install 'engineforge[promotion]'")

from tests.conftest import SPEC, Forge
from tests.models import convnet

ENVIRONMENTS = """\
dev:
  store: ../envs/dev
  signers: {ci: keys/ci.pub}
  gates: {freshness: {}, provenance: {}}
staging:
  store: ../envs/staging
  from: dev
  signers: {ci: keys/ci.pub, alice: keys/alice.pub}
  promoters: [ci]
  gates: {freshness: {}, approval: {by: [alice]}}
"""
CI, ALICE = ("--key", "specs/keys/ci.key"), ("--key", "specs/keys/alice.key")


def _made(forge: Forge) -> None:
    forge.spec("net", SPEC.replace("targets: [ada]", "targets: [ada, ampere]"))
    forge.spec("other", SPEC.replace("models/net.onnx", "models/other.onnx"))
    forge.spec("environments", ENVIRONMENTS)
    convnet(forge.specs / "models" / "other.onnx", seed=1)
    (forge.specs / "keys").mkdir()
    (forge.root / "envs").mkdir()
    for name in ("ci", "alice"):
        assert forge.run("attest", "key", f"specs/keys/{name}").code == 0


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("once")


@pytest.fixture
def project(forge: Forge, once: Path) -> Forge:
    """Two specs, built, and promoted to nothing yet."""
    if not (once / "specs").exists():
        _made(forge)
        assert forge.build().code == 0
        shutil.copytree(forge.root, once, dirs_exist_ok=True)
    else:
        shutil.copytree(once, forge.root, dirs_exist_ok=True)
    return forge


@pytest.fixture
def in_dev(project: Forge) -> Forge:
    assert project.run("promote", "specs", "--to", "dev", *CI).code == 0
    return project


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


EVERY: dict[str, tuple[str, ...]] = {
    "promote": ("promote", "specs", "--to", "dev", *CI),
    "rollback": ("rollback", "net", "--in", "dev", *CI),
    "history": ("history", "--in", "dev"),
    "status": ("status",),
    "verify": ("attest", "verify", "dev/net"),
    "approve": ("attest", "approve", "specs", "--to", "dev", *CI),
    "results": ("attest", "results", "specs", "--to", "dev", *CI),
    "pull": ("pull", "dev/net", "-o", "model.engine", "--target", "ada"),
    "export": ("export", "triton", "dev/net", "models"),
}
every = pytest.mark.parametrize("command", EVERY.values(), ids=EVERY)
signs = pytest.mark.parametrize(
    "command", [EVERY[name] for name in ("promote", "rollback", "approve", "results")]
)


@every
def test_without_environments_nothing_is_done(command: tuple[str, ...], project: Forge) -> None:
    (project.specs / "environments.yaml").unlink()
    result = project.run(*command)
    assert (result.code, result.out) == (2, "")
    assert "environments.yaml" in result.err
    assert not files(project.root / "envs")


@pytest.mark.parametrize("command", [EVERY[name] for name in EVERY if name != "status"])
def test_an_environment_that_is_not_named_is_told(command: tuple[str, ...], project: Forge) -> None:
    told = [word.replace("dev/", "devv/") if "/" in word else word for word in command]
    told = ["devv" if word == "dev" else word for word in told]
    result = project.run(*told)
    assert result.code == 2
    assert "there is no environment 'devv'" in result.err
    assert "dev" in result.err.partition("hint: ")[2]


@signs
def test_without_a_key_nothing_is_signed(command: tuple[str, ...], in_dev: Forge) -> None:
    before = files(in_dev.root / "envs")
    result = in_dev.run(*command[:-2])
    assert result.code == 2
    assert "there is no key" in result.err
    assert "--key FILE, or $ENGINEFORGE_KEY" in result.err
    assert files(in_dev.root / "envs") == before


def test_a_key_comes_from_the_environment(project: Forge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINEFORGE_KEY", "specs/keys/ci.key")
    assert project.run("promote", "specs", "--to", "dev").code == 0


def test_a_key_that_may_not_promote_is_refused(in_dev: Forge) -> None:
    assert in_dev.run("attest", "approve", "specs", "--to", "staging", *ALICE).code == 0
    result = in_dev.run("promote", "specs", "--to", "staging", *ALICE)
    assert result.code == 3
    assert "the key is that of 'alice', who may not promote to staging" in result.err
    assert "promoters of staging in environments.yaml: ci" in result.err


def test_a_key_that_is_nobodys_is_refused(project: Forge) -> None:
    assert project.run("attest", "key", "eve").code == 0
    result = project.run("promote", "specs", "--to", "dev", "--key", "eve.key")
    assert result.code == 3
    assert not files(project.root / "envs")


class TestKeys:
    def test_one_is_made_that_only_its_owner_reads(self, forge: Forge) -> None:
        result = forge.run("attest", "key", "ci")
        assert result.code == 0
        assert stat.S_IMODE((forge.root / "ci.key").stat().st_mode) == 0o600
        assert (forge.root / "ci.pub").read_text().startswith("-----BEGIN PUBLIC KEY-----")
        assert "to be kept secret" in result.out

    @pytest.mark.parametrize("there", ["ci.key", "ci.pub"])
    def test_none_is_overwritten(self, there: str, forge: Forge) -> None:
        (forge.root / there).write_text("mine")
        result = forge.run("attest", "key", "ci")
        assert result.code == 2
        assert f"'{there}' is there already" in result.err
        assert (forge.root / there).read_text() == "mine"
        assert {path.name for path in forge.root.glob("ci.*")} == {there}

    def test_where_there_is_no_folder_for_it_that_is_told(self, forge: Forge) -> None:
        result = forge.run("attest", "key", "nowhere/ci")
        assert result.code == 2
        assert "there is no folder 'nowhere'" in result.err

    @pytest.fixture
    def encrypted(self, project: Forge, monkeypatch: pytest.MonkeyPatch) -> Forge:
        for path in (project.specs / "keys").glob("ci.*"):
            path.unlink()
        monkeypatch.setenv("ENGINEFORGE_KEY_PASSWORD", "correct horse")
        assert project.run("attest", "key", "specs/keys/ci").code == 0
        return project

    def test_an_encrypted_one_opens_with_its_password(self, encrypted: Forge) -> None:
        assert "ENCRYPTED" in (encrypted.specs / "keys" / "ci.key").read_text()
        assert encrypted.run("promote", "specs", "--to", "dev", *CI).code == 0

    @pytest.mark.parametrize("password", ["wrong", None])
    def test_with_another_password_it_does_not(
        self, password: str | None, encrypted: Forge, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("ENGINEFORGE_KEY_PASSWORD")
        if password is not None:
            monkeypatch.setenv("ENGINEFORGE_KEY_PASSWORD", password)
        result = encrypted.run("promote", "specs", "--to", "dev", *CI)
        assert result.code == 2
        assert "password" in result.err
        assert "ENGINEFORGE_KEY_PASSWORD" in result.err
        assert not files(encrypted.root / "envs")


class TestDryRun:
    def test_it_changes_nothing_and_says_what_would_be(self, project: Forge) -> None:
        result = project.run("promote", "specs", "--to", "dev", "--dry-run", *CI)
        assert result.code == 0
        assert "net: would be let into dev" in result.out
        assert not files(project.root / "envs")

    def test_it_needs_no_key_where_the_gates_need_none(self, project: Forge) -> None:
        project.edit("environments", "{freshness: {}, provenance: {}}", "{freshness: {}}")
        assert project.run("promote", "specs", "--to", "dev", "--dry-run").code == 0

    def test_what_would_be_refused_is_said_as_a_refusal(self, in_dev: Forge) -> None:
        before = files(in_dev.root / "envs")
        result = in_dev.run("promote", "specs", "--to", "staging", "--dry-run", *CI)
        assert result.code == 3
        assert "engineforge attest approve specs/net.yaml --to staging" in result.err
        assert files(in_dev.root / "envs") == before


class TestSelecting:
    def test_one_target_alone_is_promoted(self, project: Forge) -> None:
        words = ("promote", "specs/net.yaml", "--to", "dev", "--target", "ada", *CI)
        assert project.run(*words).code == 0
        (cell,) = [c for c in project.run("status", "--json").json["cells"] if c["engine"]]
        assert (cell["spec"], cell["target"]) == ("net", "ada")

    def test_the_other_one_comes_beside_it(self, project: Forge) -> None:
        for target in ("ada", "ampere"):
            words = ("promote", "specs/net.yaml", "--to", "dev", "--target", target, *CI)
            assert project.run(*words).code == 0
        found = project.run("status", "specs/net.yaml", "--json").json["cells"]
        there = {c["target"]: c["number"] for c in found if c["environment"] == "dev"}
        assert there == {"ada": 2, "ampere": 2}

    @pytest.mark.parametrize("words", [("--variant", "fp61"), ("--target", "adda")])
    def test_what_no_spec_names_is_told(self, words: tuple[str, str], project: Forge) -> None:
        result = project.run("promote", "specs", "--to", "dev", *words, *CI)
        assert result.code == 2
        assert f"'{words[1]}'" in result.err

    def test_approvals_are_of_what_is_selected(self, in_dev: Forge) -> None:
        words = ("attest", "approve", "specs/net.yaml", "--to", "staging", "--target", "ada")
        assert in_dev.run(*words, *ALICE).out == "net/fp32@ada in dev: 1 attached\n"
        result = in_dev.run("promote", "specs/net.yaml", "--to", "staging", *CI)
        assert result.code == 3
        assert result.err.count("REFUSED") == 1


class TestRefusals:
    def test_what_is_not_built_is_told(self, project: Forge) -> None:
        convnet(project.model, seed=5)
        result = project.run("promote", "specs/net.yaml", "--to", "dev", *CI)
        assert result.code == 3
        assert "net/fp32@ada, net/fp32@ampere are not built, or not up to date" in result.err
        assert "hint: engineforge build specs/net.yaml" in result.err

    def test_one_that_is_refused_ends_it(self, project: Forge) -> None:
        convnet(project.model, seed=5)
        assert project.run("promote", "specs", "--to", "dev", *CI).code == 3
        assert not files(project.root / "envs")

    def test_others_are_promoted_all_the_same_if_asked(self, project: Forge) -> None:
        convnet(project.model, seed=5)
        words = ("promote", "specs", "--to", "dev", "--keep-going", "--json", *CI)
        result = project.run(*words)
        assert result.code == 3
        net, other = result.json["specs"]
        assert "not built" in net["error"]
        assert (other["spec"], other["number"]) == ("other", 1)

    def test_what_the_source_does_not_have_is_told(self, project: Forge) -> None:
        result = project.run("promote", "specs/net.yaml", "--to", "staging", *CI)
        assert result.code == 3
        assert "dev has nothing of 'net'" in result.err
        assert "hint: engineforge promote specs/net.yaml --to dev" in result.err

    def test_without_gates_nothing_gets_in(self, project: Forge) -> None:
        project.edit("environments", "  gates: {freshness: {}, provenance: {}}\n", "")
        result = project.run("promote", "specs", "--to", "dev", *CI)
        assert result.code == 2
        assert "environments.yaml:1:1: dev: expected the key 'gates'" in result.err
        project.edit("environments", "ci.pub}\n", "ci.pub}\n  gates: {}\n")
        result = project.run("promote", "specs", "--to", "dev", *CI)
        assert result.code == 3
        assert "has no gates: nothing gets in" in result.err

    @pytest.mark.parametrize("reason", [(), ("--reason", " ")])
    def test_overriding_needs_a_reason(self, reason: tuple[str, ...], in_dev: Forge) -> None:
        words = ("promote", "specs", "--to", "staging", "--override", "approval")
        result = in_dev.run(*words, *reason, *CI)
        assert result.code == 2
        assert "--override needs a reason" in result.err

    def test_a_gate_that_is_none_cannot_be_overridden(self, in_dev: Forge) -> None:
        words = ("promote", "specs", "--to", "staging", "--override", "aproval", "--reason", "x")
        result = in_dev.run(*words, *CI)
        assert result.code == 2
        assert "approval" in result.err.partition("hint")[2]

    def test_what_was_overridden_is_told_by_everything(self, in_dev: Forge) -> None:
        words = ("promote", "specs/net.yaml", "--to", "staging", "--override", "approval")
        result = in_dev.run(*words, "--reason", "alice is away", *CI)
        assert result.code == 0
        assert "OVERRIDDEN approval" in result.out
        assert "overridden: net/fp32@ada in staging: approval" in in_dev.run("status").out
        history = in_dev.run("history", "net", "--in", "staging").out
        assert "OVERRIDDEN: approval" in history
        assert "alice is away" in history
        pulled = in_dev.run("pull", "staging/net", "-o", "model.engine", "--target", "ada")
        assert pulled.code == 0
        assert "approval" in pulled.err
        refused = in_dev.run(
            "pull", "staging/net", "-o", "model.engine", "--target", "ada", "--no-overridden"
        )
        assert refused.code == 3

    def test_a_damaged_environment_is_another_exit_code(self, in_dev: Forge) -> None:
        for path in (in_dev.root / "envs" / "dev" / "blobs" / "sha256").iterdir():
            if path.stat().st_size > 10_000:
                path.chmod(0o644)
                path.write_bytes(path.read_bytes()[:-1] + b"x")
        assert in_dev.run("attest", "verify", "dev/net").code == 4

    def test_a_folder_above_which_nothing_is_there_is_told(self, project: Forge) -> None:
        project.edit("environments", "../envs/dev", "../mounted/dev")
        result = project.run("promote", "specs", "--to", "dev", *CI)
        assert result.code == 1
        assert "mounted/dev' is in no folder that is there" in result.err
        assert not (project.root / "mounted").exists()

    def test_a_triton_server_that_loads_no_such_engines_is_refused(self, in_dev: Forge) -> None:
        result = in_dev.run("export", "triton", "dev/net", "models")
        assert result.code == 1
        assert "--backend NAME" in result.err
        assert not (in_dev.root / "models").exists()

    def test_a_model_repository_in_no_folder_is_told(self, in_dev: Forge) -> None:
        words = ("export", "triton", "dev/net", "nowhere/models", "--backend", "mine")
        result = in_dev.run(*words, "--target", "ada")
        assert result.code == 2
        assert "there is no folder" in result.err


class TestJson:
    @pytest.mark.parametrize("name", EVERY)
    def test_it_is_all_that_is_printed(self, name: str, in_dev: Forge) -> None:
        command = EVERY[name]
        if name in ("approve", "results"):
            command = tuple("staging" if word == "dev" else word for word in command)
        if name == "rollback":
            convnet(in_dev.model, seed=5)
            assert in_dev.build().code == 0
            assert in_dev.run("promote", "specs", "--to", "dev", *CI).code == 0
        if name == "export":
            command = (*command, "--backend", "mine", "--target", "ada")
        result = in_dev.run(*command, "--json")
        assert result.code == 0, result.err
        assert json.loads(result.out)

    def test_a_refusal_says_what_would_help(self, in_dev: Forge) -> None:
        result = in_dev.run("promote", "specs/net.yaml", "--to", "staging", "--json", *CI)
        assert result.code == 3
        (spec,) = result.json["specs"]
        assert (spec["refused"], spec["number"]) == (True, None)
        hints = {g["gate"]: g["hint"] for g in spec["engines"][0]["gates"] if not g["passed"]}
        assert list(hints) == ["approval"]
        assert "engineforge attest approve specs/net.yaml --to staging" in hints["approval"]


class TestRollback:
    def test_there_is_nothing_before_the_first(self, in_dev: Forge) -> None:
        result = in_dev.run("rollback", "net", "--in", "dev", *CI)
        assert result.code == 2
        assert "engineforge history net --in dev" in result.err

    def test_nothing_was_ever_promoted(self, project: Forge) -> None:
        result = project.run("rollback", "net", "--in", "dev", *CI)
        assert result.code == 3
        assert "dev has nothing of 'net'" in result.err

    def test_a_number_is_of_one_spec(self, in_dev: Forge) -> None:
        result = in_dev.run("rollback", "net", "other", "--in", "dev", "--number", "1", *CI)
        assert result.code == 2
        assert "--number is of one spec" in result.err


_SAY_MODULES = """
import sys
from engineforge.cli.main import main
try:
    main(sys.argv[1:])
finally:
    print(*sorted({name.split(".")[0] for name in sys.modules}), file=sys.stderr)
"""


@pytest.mark.parametrize("words", [("--help",), ("build", "specs"), ("promote", "--help")])
def test_who_promotes_nothing_loads_nothing_for_it(words: tuple[str, ...], project: Forge) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SAY_MODULES, *words],
        cwd=project.root,
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stderr.splitlines()[-1].split())
    assert not loaded & {"cryptography", "urllib3", "obstore", "google"}


def test_a_folder_environment_needs_no_client_of_registries(in_dev: Forge) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SAY_MODULES, "status"],
        cwd=in_dev.root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "urllib3" not in done.stderr.splitlines()[-1].split()
