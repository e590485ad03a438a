"""YAML is read as it looks, or refused with the place."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from engineforge.spec.load import Document, Path, load


def said(data: bytes | str) -> list[str]:
    """Every problem as a user sees it."""
    _, problems = load("f.yaml", data.encode() if isinstance(data, str) else data)
    return [str(problem) for problem in problems]


def read(data: bytes | str) -> Document:
    document, problems = load("f.yaml", data.encode() if isinstance(data, str) else data)
    assert document is not None
    assert not problems
    return document


# Names and texts without YAML 1.1's traps: what a plain scalar could be taken for.
NAMES = st.from_regex(r"[a-z][a-z0-9_/.-]{3,8}", fullmatch=True).filter(
    lambda name: name not in ("true", "false", "null")
)
# Without YAML 1.1's own line breaks, which its writer leaves bare, and the byte order mark.
TEXT = st.text(
    st.characters(codec="utf-8", exclude_characters="\x85\u2028\u2029\ufeff"), max_size=8
)
DECIMALS = st.integers(-(10**6), 10**6).map(lambda n: n / 1000)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**16), 10**16) | DECIMALS | TEXT,
    lambda each: st.lists(each, max_size=4) | st.dictionaries(NAMES, each, max_size=4),
    max_leaves=20,
)


@settings(deadline=None)
@given(st.dictionaries(NAMES, JSON))
def test_what_yaml_writes_reads_back_as_it_was(value: Mapping[str, object]) -> None:
    assert read(yaml.safe_dump(value, allow_unicode=True)).value == value


@settings(deadline=None)
@given(st.dictionaries(NAMES, st.lists(st.text(st.characters(codec="ascii"))) | DECIMALS))
def test_what_json_writes_reads_back_as_it_was(value: Mapping[str, object]) -> None:
    assert read(json.dumps(value)).value == value


@settings(deadline=None)
@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_any_bytes_are_a_value_or_a_problem(data: bytes) -> None:
    document, problems = load("f.yaml", data)
    assert document is not None or problems
    assert all(problem.line >= 1 and problem.column >= 1 for problem in problems)


@settings(deadline=None)
@given(st.dictionaries(NAMES, st.dictionaries(NAMES, st.integers(0, 9)), min_size=1))
def test_every_key_has_the_place_where_it_stands(value: Mapping[str, Mapping[str, int]]) -> None:
    text = yaml.safe_dump(value)
    lines = text.splitlines()
    for path, (line, column) in read(text).marks.items():
        if path:
            assert lines[line - 1][column - 1 :].startswith(f"{path[-1]}:")


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ((), (2, 1)),
        (("a",), (2, 1)),
        (("a", "b"), (3, 3)),
        (("a", "b", 0), (3, 7)),
        (("a", "b", 1), (4, 7)),
        (("a", "b", 1, "c"), (4, 8)),
        (("a", "é x"), (5, 3)),
        (("a", "é x", "d"), (5, 11)),
        (("list", 0), (7, 5)),
        (("list", 0, "k"), (7, 5)),
        (("list", 1), (8, 5)),
    ],
)
def test_keys_and_items_have_their_line_and_column(path: Path, place: tuple[int, int]) -> None:
    text = "# comment\na:\n  b: [1,\n      {c: 2}]\n  'é x': {d: 1}\nlist:\n  - k: 1\n  - 2\n"
    assert read(text).marks[path] == place


@pytest.mark.parametrize(
    ("path", "where"),
    [
        (("a", "b"), "f.yaml:1:5: a.b: m"),
        (("a", "c", 0), "f.yaml:1:1: a.c[0]: m"),
        (("z", "y"), "f.yaml:1:1: z.y: m"),
        ((), "f.yaml:1:1: m"),
    ],
)
def test_a_problem_is_at_the_nearest_place_that_the_file_has(path: Path, where: str) -> None:
    assert str(read("a: {b: 1}\n").problem(path, "m")) == where


@pytest.mark.parametrize(
    "data", [b"\xef\xbb\xbfa: 1\nb: 2\n", b"a: 1\r\nb: 2\r\n", b"---\na: 1\nb: 2\n...\n"]
)
def test_marks_of_editors_and_systems_are_not_content(data: bytes) -> None:
    assert read(data).value == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("-7", -7),
        ("+7", 7),
        ("1.5", 1.5),
        (".5", 0.5),
        ("-1.", -1.0),
        ("1.5e+3", 1500.0),
        ("999999999999999999", 999999999999999999),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("", None),
        ("'no'", "no"),
        ('"010"', "010"),
        ("'2024-01-02'", "2024-01-02"),
        ("y", "y"),
        ("n", "n"),
        ("=", "="),
        ("1.7.1.116", "1.7.1.116"),
        ("4GiB", "4GiB"),
        ("/head/*", "/head/*"),
    ],
)
def test_a_value_is_what_it_looks_like(text: str, value: object) -> None:
    found = read(f"a: {text}\n").value
    assert found == {"a": value}
    assert isinstance(found, dict)
    assert type(found["a"]) is type(value)


@pytest.mark.parametrize("word", ["no", "No", "NO", "off", "Off", "OFF"])
def test_a_bare_word_for_false_is_refused(word: str) -> None:
    assert said(f"a: {word}\n") == [
        f"f.yaml:1:4: a: found the bare word {word}, which YAML 1.1 reads as false\n"
        f"hint: write false, or '{word}' in quotes for the word"
    ]


@pytest.mark.parametrize("word", ["yes", "Yes", "YES", "on", "On", "ON"])
def test_a_bare_word_for_true_is_refused(word: str) -> None:
    assert said(f"a: [x, {word}]\n") == [
        f"f.yaml:1:8: a[1]: found the bare word {word}, which YAML 1.1 reads as true\n"
        f"hint: write true, or '{word}' in quotes for the word"
    ]


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("010", "8"),
        ("00", "0"),
        ("1:30", "90"),
        ("190:20:30", "685230"),
        ("1_000", "1000"),
        ("0x1f", "31"),
        ("0b11", "3"),
        ("1_0.5", "10.5"),
        ("1:30.5", "90.5"),
    ],
)
def test_a_number_that_is_not_what_it_looks_like_is_refused(text: str, meaning: str) -> None:
    assert said(f"a:\n  b: {text}\n") == [
        f"f.yaml:2:6: a.b: found {text}, which YAML 1.1 reads as {meaning}\n"
        f"hint: write {meaning}, or '{text}' in quotes for the text"
    ]


@pytest.mark.parametrize(
    ("text", "meaning"), [(".inf", "inf"), ("-.Inf", "-inf"), (".NaN", "nan"), ("1.e+999", "inf")]
)
def test_a_number_that_is_none_is_refused(text: str, meaning: str) -> None:
    assert said(f"a: {text}\n") == [
        f"f.yaml:1:4: a: found {text}, which YAML 1.1 reads as {meaning}\n"
        f"hint: write a plain decimal number, or '{text}' in quotes for the text"
    ]


@pytest.mark.parametrize(
    "text",
    ["1" + "0" * 18, "9" * 5000, "0b" + "1" * 5000, "0x" + "f" * 9999, "1" + ":59" * 999 + ".5"],
    ids=len,
)
def test_a_number_of_more_digits_than_anything_has_is_refused(text: str) -> None:
    assert said(f"a: {text}\n") == [
        f"f.yaml:1:4: a: expected a number of at most 18 digits, found {len(text)}"
    ]


@pytest.mark.parametrize("text", ["2024-01-02", "2024-01-02 10:00:00", "2024-1-2T10:00:00Z"])
def test_a_date_is_refused(text: str) -> None:
    assert said(f"a: {text}\n") == [
        f"f.yaml:1:4: a: found {text}, which YAML 1.1 reads as a date\n"
        f"hint: write '{text}' in quotes for the text"
    ]


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("!foo x", "!foo"),
        ("!foo [1]", "!foo"),
        ("!foo {b: 1}", "!foo"),
        ("!!python/object:os.system {}", "!!python/object:os.system"),
        ("!!python/name:os.system", "!!python/name:os.system"),
        ("!!set {b: null}", "!!set"),
        ("!!omap [b: 1]", "!!omap"),
        ("!!binary aGk=", "!!binary"),
        ("!!str 5", "!!str"),
        ("!!int '5'", "!!int"),
        ("!!int five", "!!int"),
        ("!!bool maybe", "!!bool"),
    ],
)
def test_a_tag_is_refused(text: str, tag: str) -> None:
    assert said(f"a: {text}\n") == [
        f"f.yaml:1:4: a: the YAML tag {tag} has no meaning here\nhint: take it out"
    ]


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("a: 1\nb: 2\na: 3\n", ["f.yaml:3:1: a: the key 'a' is here twice, first on line 1"]),
        (
            "a:\n  x: 1\n  'x': 2\n",
            ["f.yaml:3:3: a.x: the key 'x' is here twice, first on line 2"],
        ),
        (
            "a: 1\na: 2\na: {}\n",
            [
                "f.yaml:2:1: a: the key 'a' is here twice, first on line 1",
                "f.yaml:3:1: a: the key 'a' is here twice, first on line 1",
            ],
        ),
        (
            "- {k: 1, k: 1}\n- {k: 1}\n",
            ["f.yaml:1:10: [0].k: the key 'k' is here twice, first on line 1"],
        ),
    ],
)
def test_a_key_that_is_there_twice_is_refused(text: str, problems: list[str]) -> None:
    assert said(text) == problems


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("1", "a number"),
        ("2.5", "a number"),
        ("true", "the bare word true"),
        ("~", "the bare word ~"),
        ("null", "the bare word null"),
    ],
)
def test_a_key_that_is_no_text_is_refused(key: str, found: str) -> None:
    assert said(f"a:\n  {key}: x\n") == [
        f"f.yaml:2:3: a: expected a name as key, found {found}\nhint: write it in quotes: '{key}'"
    ]


def test_a_key_that_is_a_bare_word_is_refused() -> None:
    assert said("no: x\n") == [
        "f.yaml:1:1: found the bare word no, which YAML 1.1 reads as false\n"
        "hint: write false, or 'no' in quotes for the word"
    ]


@pytest.mark.parametrize("key", ["[1]", "{b: 1}"])
def test_a_key_that_is_no_scalar_is_refused(key: str) -> None:
    assert said(f"? {key}\n: x\n") == [
        "f.yaml:1:3: expected a name as key, found a list or mapping"
    ]


def test_a_key_may_be_a_question_mark() -> None:
    document = read("a: {'?': {b: 1}}\n")
    assert document.value == {"a": {"?": {"b": 1}}}
    assert document.marks["a", "?"] == (1, 5)


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n"])
def test_an_empty_file_is_refused(text: str) -> None:
    assert said(text) == ["f.yaml:1:1: the file is empty"]


@pytest.mark.parametrize("text", ["a: 1\n---\nb: 2\n", "a: 1\n---\n- b\n---\nc\n"])
def test_a_second_document_is_refused(text: str) -> None:
    assert said(text) == [
        "f.yaml:3:1: expected one YAML document, found a second one\nhint: one file is one spec"
    ]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"a: caf\xe9\n", "f.yaml:1:7: expected UTF-8 text, found the byte 0xe9"),
        (b"# \xc3\xa9\n\xc3\xa9: \xff\n", "f.yaml:2:4: expected UTF-8 text, found the byte 0xff"),
        ("a: 1\n".encode("utf-16"), "f.yaml:1:1: expected UTF-8 text, found the byte 0xff"),
        (b"\xc3", "f.yaml:1:1: expected UTF-8 text, found the byte 0xc3"),
    ],
)
def test_what_is_not_utf_8_is_refused_at_its_character(data: bytes, problem: str) -> None:
    assert said(data) == [problem]


NO_TABS = "\nhint: indent with spaces: YAML takes no tabs"
QUOTES = "\nhint: text that begins with this character stands in quotes"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "a:\n\tb: 1\n",
            "2:1: not YAML: found character that cannot start any token while scanning for the "
            "next token" + NO_TABS,
        ),
        (
            "a: 1\n\tb: 2\n",
            "2:1: not YAML: found a tab character that violates indentation while scanning a "
            "plain scalar that begins on line 1" + NO_TABS,
        ),
        (
            "a: [1, 2\nb: 3\n",
            "2:2: not YAML: did not find expected ',' or ']' while parsing a flow sequence that "
            "begins on line 1",
        ),
        (
            "a: 1\nb: 'x\nc: 3\n",
            "4:1: not YAML: found unexpected end of stream while scanning a quoted scalar that "
            "begins on line 2",
        ),
        (
            "é: b: c\n",
            "1:5: not YAML: mapping values are not allowed in this context\nhint: text with ': ' "
            "in it stands in quotes; if this is a key, look at its indentation",
        ),
        ("a: *head\n", "1:4: not YAML: found undefined alias" + QUOTES),
        (
            "a: @head\n",
            "1:4: not YAML: found character that cannot start any token while scanning for the "
            "next token" + QUOTES,
        ),
        ("é: 1\na: x\x07\n", "2:5: not YAML: found the control character U+0007"),
        ("a: \x00\n", "1:4: not YAML: found the control character U+0000"),
    ],
)
def test_a_syntax_error_has_its_place(text: str, problem: str) -> None:
    assert said(text) == [f"f.yaml:{problem}"]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a: &a [1, *a]\n", "1:4: a[1]"),
        ("a: &a {b: *a}\n", "1:4: a.b"),
        ("a: &a\n  <<: *a\n  b: 1\n", "1:4: a"),
        ("a: &a {b: [{c: *a}]}\n", "1:4: a.b[0].c"),
    ],
)
def test_an_alias_may_not_contain_itself(text: str, place: str) -> None:
    assert said(text) == [f"f.yaml:{place}: an alias may not contain itself"]


def test_an_alias_is_the_value_it_names() -> None:
    document = read("a: &x {k: [1, 2]}\nb: *x\nc: *x\n")
    assert document.value == {name: {"k": [1, 2]} for name in "abc"}
    assert document.marks["b",] == (2, 1)
    assert document.marks["b", "k"] == (1, 8)


@pytest.mark.parametrize(
    "items",
    [
        "[{0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}]",
        "{{a: {0}, b: {0}, c: {0}, d: {0}, e: {0}}}",
        "{{<<: [{0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}]}}",
    ],
)
def test_a_bomb_of_aliases_ends_soon(items: str) -> None:
    lines = ["a0: &a0 {x: no}"]
    lines += [f"a{i}: &a{i} {items.format(f'*a{i - 1}')}" for i in range(1, 40)]
    assert said("\n".join(lines)) == [
        "f.yaml:1:1: the aliases of this file expand to more than 100000 values"
    ]


def test_a_large_file_without_aliases_is_no_bomb() -> None:
    text = "- [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]\n" * 12_000
    assert len(read(text).marks) == 1 + 11 * 12_000


@pytest.mark.parametrize("text", ["[" * 1000 + "]" * 1000, "- " * 1000, "{a: " * 900 + "}" * 900])
def test_a_file_nested_too_deep_is_refused(text: str) -> None:
    assert said(text) == ["f.yaml:1:1: nested too deep to be read"]


@pytest.mark.parametrize(
    ("text", "merged"),
    [
        ("{<<: *b, y: 3}", {"x": 1, "y": 3}),
        ("{y: 3, <<: *b}", {"x": 1, "y": 3}),
        ("{<<: [*b, *d]}", {"x": 1, "y": 2, "z": 5}),
        ("{<<: [*d, *b]}", {"x": 4, "y": 2, "z": 5}),
        ("{<<: *d, <<: *b}", {"x": 4, "y": 2, "z": 5}),
        ("{'<<': 3}", {"<<": 3}),
    ],
)
def test_a_merge_gives_what_the_mapping_itself_does_not_have(
    text: str, merged: Mapping[str, int]
) -> None:
    value = read(f"b: &b {{x: 1, y: 2}}\nd: &d {{x: 4, z: 5}}\nc: {text}\n").value
    assert isinstance(value, dict)
    assert value["c"] == merged


@pytest.mark.parametrize("text", ["{<<: *b, y: 3}", "{<<: [*b, *d], y: 3}", "{y: 3, <<: *b}"])
def test_a_merged_key_stands_where_it_was_written(text: str) -> None:
    line = f"c: {text}\n"
    marks = read(f"b: &b {{x: 1, y: 2}}\nd: &d {{x: 4, z: 5}}\n{line}").marks
    assert marks["c", "x"] == (1, 8)
    assert marks["c", "y"] == (3, line.index("y") + 1)


@pytest.mark.parametrize(("text", "column"), [("3", 9), ("[1]", 10), ("'*b'", 9)])
def test_only_mappings_can_be_merged(text: str, column: int) -> None:
    assert said(f"c: {{<<: {text}}}\n") == [f"f.yaml:1:{column}: c: expected a mapping after '<<'"]


def test_all_problems_of_a_text_are_said_at_once() -> None:
    text = "a: no\nb: 010\na: 1\n2: x\nc: !t 1\n"
    _, problems = load("f.yaml", text.encode())
    assert [problem.line for problem in problems] == [1, 2, 3, 4, 5]
