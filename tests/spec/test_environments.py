"""environments.yaml: what its values are, and what is told of one that is wrong."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from engineforge.digest import Digest
from engineforge.errors import SpecError, UsageError
from engineforge.spec.environments import (
    GATES,
    AccuracyGate,
    AgeGate,
    ApprovalGate,
    Environment,
    FreshnessGate,
    LatencyGate,
    LoadGate,
    ProvenanceGate,
    Retention,
    Signer,
    load_environments,
    read_environments,
)
from engineforge.spec.load import load
from engineforge.spec.validate import schema, validate
from tests.conftest import Forge

BAD = Path(__file__).parent / "bad" / "environments"
DATA = "sha256:" + 64 * "a"
GOOD = f"""\
dev:
  description: what was built last night
  store: oci://registry.example.com:5000/engines/dev
  signers: {{ci: keys/ci.pub, kms: 'awskms:alias/engines'}}
  gates: {{freshness: {{}}, provenance: {{}}}}
staging:
  store: ./environments/staging
  from: dev
  signers:
    ci: keys/ci.pub
    alice: {{key: keys/alice.pub, not_after: '2027-06-30'}}
  promoters: [ci]
  gates:
    approval: {{by: [alice], count: 1}}
    age: {{least: 36h}}
    load_test: {{}}
    latency: {{max_p99_ms: 5, max_slower_percent: 2.5, signed_by: [ci]}}
    accuracy: {{of: engine, data: ['{DATA}']}}
    freshness: {{}}
    provenance: {{signed_by: [ci]}}
  retention: {{keep: 3, days: 90}}
"""


def _read(folder: Path, text: str) -> dict[str, Environment]:
    file = folder / "environments.yaml"
    file.write_text(text)
    return read_environments(file)


def _expected(text: str) -> str:
    _, block = text.split("# expect:\n")
    return "".join(line.removeprefix("# ") for line in block.splitlines(keepends=True))


@pytest.mark.parametrize("name", sorted(path.stem for path in BAD.glob("*.yaml")))
def test_a_bad_environments_file_is_told_exactly_what_is_wrong(forge: Forge, name: str) -> None:
    text = (BAD / f"{name}.yaml").read_text()
    forge.spec("environments", text)
    result = forge.run("check")
    *said, _ = result.err.splitlines(keepends=True)
    assert "".join(said) == _expected(text)
    assert result.code == 2


def test_what_is_written_becomes_values(tmp_path: Path) -> None:
    ci = Signer(name="ci", key="keys/ci.pub")
    alice = Signer(name="alice", key="keys/alice.pub", not_after=date(2027, 6, 30))
    assert _read(tmp_path, GOOD) == {
        "dev": Environment(
            name="dev",
            store="oci://registry.example.com:5000/engines/dev",
            source=None,
            signers={"ci": ci, "kms": Signer(name="kms", key="awskms:alias/engines")},
            promoters=("ci", "kms"),
            gates={"provenance": ProvenanceGate(), "freshness": FreshnessGate()},
            retention=Retention(keep=10, days=0),
        ),
        "staging": Environment(
            name="staging",
            store="./environments/staging",
            source="dev",
            signers={"ci": ci, "alice": alice},
            promoters=("ci",),
            gates={
                "provenance": ProvenanceGate(signed_by=("ci",)),
                "freshness": FreshnessGate(),
                "accuracy": AccuracyGate(of="engine", data=(Digest(DATA),)),
                "latency": LatencyGate(max_p99_ms=5, max_slower_percent=2.5, signed_by=("ci",)),
                "load_test": LoadGate(),
                "age": AgeGate(least=timedelta(hours=36)),
                "approval": ApprovalGate(by=("alice",), count=1),
            },
            retention=Retention(keep=3, days=90),
        ),
    }


def test_gates_are_in_the_order_that_they_are_asked_in(tmp_path: Path) -> None:
    assert list(_read(tmp_path, GOOD)["staging"].gates) == list(GATES)


@pytest.mark.parametrize(
    ("text", "least"),
    [
        ("90s", timedelta(seconds=90)),
        ("5m", timedelta(minutes=5)),
        ("24h", timedelta(days=1)),
        ("999999d", timedelta(days=999_999)),
    ],
)
def test_an_age_has_a_unit(tmp_path: Path, text: str, least: timedelta) -> None:
    made = _read(tmp_path, GOOD.replace("36h", text))
    assert made["staging"].gates["age"] == AgeGate(least=least)


def test_an_environment_without_gates_can_be_written(tmp_path: Path) -> None:
    text = "dev: {store: dev, signers: {ci: keys/ci.pub}, gates: {}}\n"
    assert _read(tmp_path, text)["dev"].gates == {}


@pytest.mark.parametrize(
    "store",
    [
        "oci://localhost:5000/engines",
        "oci://registry.example.com/team-a/engines__x/dev.1",
        "s3://bucket",
        "gs://bucket/path",
        "az://container/path",
        "/srv/engines",
        "../engines of all",
    ],
)
def test_a_store_is_a_repository_a_bucket_or_a_folder(tmp_path: Path, store: str) -> None:
    text = f"dev: {{store: '{store}', signers: {{ci: keys/ci.pub}}, gates: {{}}}}\n"
    assert _read(tmp_path, text)["dev"].store == store


def test_two_repositories_of_one_registry_are_two_stores(tmp_path: Path) -> None:
    text = "".join(
        f"{name}: {{store: 'oci://host/{name}', signers: {{ci: ci.pub}}, gates: {{}}}}\n"
        for name in ("dev", "staging")
    )
    assert list(_read(tmp_path, text)) == ["dev", "staging"]


def test_a_password_in_a_store_is_not_repeated(tmp_path: Path) -> None:
    text = "dev: {store: 'oci://me:hunter2@host/engines', signers: {ci: ci.pub}, gates: {}}\n"
    with pytest.raises(SpecError) as found:
        _read(tmp_path, text)
    assert "hunter2" not in str(found.value)


def test_all_problems_are_raised_at_once(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as found:
        _read(tmp_path, GOOD.replace("[alice]", "[alcie]").replace("from: dev", "from: dve"))
    assert [problem.path for problem in found.value.problems] == [
        "staging.from",
        "staging.gates.approval.by[0]",
    ]


def test_without_the_file_one_is_told_what_to_write(tmp_path: Path) -> None:
    file = tmp_path / "environments.yaml"
    with pytest.raises(UsageError) as found:
        read_environments(file)
    assert str(found.value) == (
        f"there is no '{file}'\n"
        "hint: name environments in it, such as dev: "
        "{store: ../environments/dev, signers: {ci: keys/ci.pub}, "
        "gates: {freshness: {}, provenance: {}}}"
    )


def test_what_is_told_to_be_written_can_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as found:
        read_environments(tmp_path / "environments.yaml")
    assert found.value.hint is not None
    _, _, example = found.value.hint.partition("such as ")
    assert list(_read(tmp_path, example)) == ["dev"]


def test_a_file_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    _, problems = load_environments(tmp_path)
    assert [str(problem) for problem in problems] == [f"{tmp_path}: cannot be read: Is a directory"]


def test_a_file_that_is_not_yaml_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="found the control character"):
        _read(tmp_path, "dev: \x01")


def test_what_is_wrong_with_one_environment_does_not_hide_the_others(tmp_path: Path) -> None:
    file = tmp_path / "environments.yaml"
    file.write_text(GOOD.replace("oci://registry", "ftp://registry"))
    environments, problems = load_environments(file)
    assert list(environments) == ["staging"]
    assert [problem.path for problem in problems] == ["dev.store"]


def test_check_takes_good_environments(forge: Forge) -> None:
    forge.spec("environments", GOOD)
    result = forge.run("check")
    assert (result.code, result.err) == (0, "")


def test_a_build_does_not_read_environments(forge: Forge) -> None:
    forge.spec("environments", "dev: nonsense")
    assert forge.run("plan", "specs").code == 0


def test_the_command_prints_the_schema_of_environments(forge: Forge) -> None:
    printed = forge.run("schema", "environments").json
    document, _ = load("environments.yaml", GOOD.encode())
    assert document is not None
    Draft202012Validator.check_schema(printed)
    Draft202012Validator(printed).validate(document.value)
    assert not Draft202012Validator(printed).is_valid({"dev": {"store": "./dev"}})


def test_the_schema_has_the_gates_that_there_are() -> None:
    gates = schema("environments")["$defs"]["environment"]["properties"]["gates"]
    assert list(gates["properties"]) == list(GATES)
    for name, kind in GATES.items():
        assert set(gates["properties"][name]["properties"]) == set(kind.__dataclass_fields__)


@pytest.mark.parametrize(
    "text", ["null", "text", "3", "[]", "{}", "a: 1", "a: [b]", "a: {gates: 1, signers: 1}"]
)
def test_what_the_schema_refuses_is_always_a_problem(text: str) -> None:
    document, _ = load("environments.yaml", text.encode())
    assert document is not None
    assert not Draft202012Validator(schema("environments")).is_valid(document.value)
    assert validate("environments", document)
