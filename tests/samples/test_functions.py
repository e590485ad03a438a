"""Python functions: what they may give, where they are found, and what is said when they fail."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from engineforge.spec.model import PythonFunction
from tests.samples.data import (
    equal,
    feeds,
    function,
    labels_of,
    noise,
    places,
    problem,
    stream,
    tensor,
)

X = tensor("x", "batch", 2)


class TestGives:
    def test_arrays_with_all_samples(self, tmp_path: Path) -> None:
        data = function(tmp_path, "return {'x': np.arange(6, dtype=np.float32).reshape(3, 2)}")
        found = feeds(stream(tmp_path, data, X))
        assert [each.tolist() for each in found] == [[[0, 1]], [[2, 3]], [[4, 5]]]

    def test_arrays_that_are_chosen_of(self, tmp_path: Path) -> None:
        data = function(tmp_path, "return {'x': np.arange(20, dtype=np.float32)[:, None]}")
        found = feeds(stream(tmp_path, data, tensor("x", None, 1), samples=5, seed=3))
        expected = sorted(np.random.default_rng(3).choice(20, 5, replace=False).tolist())
        assert [int(each[0, 0]) for each in found] == expected

    @pytest.mark.parametrize("brackets", ["[]", "()"], ids=["list", "generator"])
    def test_feeds_one_by_one(self, tmp_path: Path, brackets: str) -> None:
        items = f"{brackets[0]}{{'x': np.full((i, 2), i, np.float32)}} for i in (1, 2){brackets[1]}"
        samples = stream(tmp_path, function(tmp_path, f"return {items}"), X)
        assert [each.tolist() for each in feeds(samples)] == [[[1, 1]], [[2, 2], [2, 2]]]
        assert places(samples) == ["'given:samples', sample 0", "'given:samples', sample 1"]

    def test_labels_with_all_samples(self, tmp_path: Path) -> None:
        data = function(
            tmp_path, "return {'x': np.ones((2, 2), np.float32), 'y': np.array([4, 5])}"
        )
        assert labels_of(stream(tmp_path, data, X, labels="y")) == [[4], [5]]

    def test_labels_with_each_feed(self, tmp_path: Path) -> None:
        body = "for i in range(2):\n    yield {'x': np.ones((1, 2), np.float32), 'y': np.int64(i)}"
        assert labels_of(stream(tmp_path, function(tmp_path, body), X, labels="y")) == [[0], [1]]

    def test_a_generator_that_never_ends(self, tmp_path: Path) -> None:
        body = "while True:\n    yield {'x': np.ones((1, 2), np.float32)}"
        assert len(list(stream(tmp_path, function(tmp_path, body), X, samples=5))) == 5

    def test_one_buffer_again_and_again(self, tmp_path: Path) -> None:
        body = (
            "x = np.zeros((1, 2), np.float32)\nfor i in range(3):\n    x[:] = i\n    yield {'x': x}"
        )
        found = feeds(stream(tmp_path, function(tmp_path, body), X))
        assert [each.tolist() for each in found] == [[[0, 0]], [[1, 1]], [[2, 2]]]

    def test_an_opened_npz(self, tmp_path: Path) -> None:
        x = noise(3, 2)
        np.savez(tmp_path / "kept.npz", x=x)
        body = "from pathlib import Path\nreturn np.load(Path(__file__).parent / 'kept.npz')"
        found = feeds(stream(tmp_path, function(tmp_path, body), X))
        assert equal(found, [x[i : i + 1] for i in range(3)])

    def test_something_new_with_each_iteration(self, tmp_path: Path) -> None:
        data = function(tmp_path, "yield {'x': np.ones((1, 2), np.float32)}")
        samples = stream(tmp_path, data, X)
        assert len(list(samples)) == len(list(samples)) == 1


class TestCount:
    @pytest.mark.parametrize(
        ("body", "count"),
        [
            ("return {'x': np.ones((3, 2), np.float32)}", 3),
            ("return [{'x': np.ones((1, 2), np.float32)}] * 4", 4),
            ("yield {'x': np.ones((1, 2), np.float32)}", None),
        ],
        ids=["arrays", "list", "generator"],
    )
    def test_is_known_without_looking(self, tmp_path: Path, body: str, count: int | None) -> None:
        assert stream(tmp_path, function(tmp_path, body), X).count() == count

    def test_a_generator_cannot_be_chosen_of(self, tmp_path: Path) -> None:
        data = function(tmp_path, "yield {'x': np.ones((1, 2), np.float32)}")
        said = problem(stream(tmp_path, data, X, samples=1, seed=0))
        assert said == (
            "'given:samples': 'seed' chooses of samples that can be counted\n"
            "hint: return a list, or leave out 'seed'"
        )

    def test_a_generator_that_ends_too_early(self, tmp_path: Path) -> None:
        data = function(tmp_path, "yield {'x': np.ones((1, 2), np.float32)}")
        said = problem(stream(tmp_path, data, X, samples=3))
        assert said.startswith("'given:samples' has 1 sample, and 'samples' asks for 3\n")

    def test_a_generator_of_too_few(self, tmp_path: Path) -> None:
        data = function(tmp_path, "yield {'x': np.ones((1, 2), np.float32)}")
        said = problem(stream(tmp_path, data, X, fewest=8))
        assert said.startswith("'given:samples': expected 8 samples or more, found 1\n")

    @pytest.mark.parametrize("nothing", ["[]", "iter(())", "{'x': np.ones((0, 2), np.float32)}"])
    def test_no_samples(self, tmp_path: Path, nothing: str) -> None:
        said = problem(stream(tmp_path, function(tmp_path, f"return {nothing}"), X))
        assert said.startswith("'given:samples'")

    def test_a_length_that_was_made_up(self, tmp_path: Path) -> None:
        body = (
            "class Three:\n    def __len__(self): return 3\n"
            "    def __iter__(self): yield {'x': np.ones((1, 2), np.float32)}\nreturn Three()"
        )
        said = problem(stream(tmp_path, function(tmp_path, body), X))
        assert said == "'given:samples' says more samples than it gives: 1"


class TestRefused:
    @pytest.mark.parametrize(
        ("result", "said"),
        [
            ("None", "'given:samples' gave a NoneType\nhint: expected a mapping of arrays"),
            ("'text'", "'given:samples' gave a str"),
            ("np.ones((3, 2))", "'given:samples' gave a ndarray"),
            ("[np.ones((1, 2))]", "'given:samples', sample 0 is a ndarray"),
            ("{'y': np.ones((1, 2))}", "'given:samples': expected an array 'x', found 'y'"),
            ("{'x': [[1.0, 2.0]]}", "'given:samples', 'x': expected a NumPy array, found list"),
            ("[{0: 1}]", "'given:samples', sample 0: expected an array 'x', found none"),
            ("[{'x': [1]}]", "sample 0, 'x': expected a NumPy array, found list"),
            ("[{'x': np.ones((1, 2))}]", "sample 0, input 'x': expected float32, found float64"),
            ("{'x': np.ones((1, 2))}", "sample 0, input 'x': expected float32, found float64"),
            ("{'x': np.array([None])}", "'x': expected numbers, found Python objects"),
        ],
    )
    def test_what_is_no_sample(self, tmp_path: Path, result: str, said: str) -> None:
        data = function(tmp_path, f"return {result}")
        assert said in problem(stream(tmp_path, data, X))

    def test_labels_that_are_no_integers(self, tmp_path: Path) -> None:
        data = function(tmp_path, "yield {'x': np.ones((1, 2), np.float32), 'y': np.ones(1)}")
        said = problem(stream(tmp_path, data, X, labels="y"))
        assert "sample 0, labels 'y': expected integers, found float64" in said


class TestFails:
    def test_when_it_is_called(self, tmp_path: Path) -> None:
        data = function(tmp_path, "x = 1\nraise ValueError('no such\\n  day')")
        said = problem(stream(tmp_path, data, X))
        assert said == "'given:samples' failed at given.py:5: ValueError: no such day"

    def test_while_it_is_read(self, tmp_path: Path) -> None:
        data = function(tmp_path, "yield {'x': np.ones((1, 2), np.float32)}\n1 / 0")
        said = problem(stream(tmp_path, data, X))
        assert said == "'given:samples' failed at given.py:5: ZeroDivisionError: division by zero"

    def test_deep_in_a_library_with_the_line_that_called_it(self, tmp_path: Path) -> None:
        data = function(tmp_path, "return np.reshape(np.ones(3), (2, 2))")
        assert "failed at given.py:4: ValueError: cannot reshape" in problem(
            stream(tmp_path, data, X)
        )

    def test_by_exiting(self, tmp_path: Path) -> None:
        data = function(tmp_path, "raise SystemExit(3)")
        assert "failed at given.py:4: SystemExit: 3" in problem(stream(tmp_path, data, X))

    def test_code_that_interrupts_itself(self, tmp_path: Path) -> None:
        data = function(tmp_path, "raise KeyboardInterrupt")
        assert "failed at given.py:4: KeyboardInterrupt" in problem(stream(tmp_path, data, X))

    def test_when_it_is_imported(self, tmp_path: Path) -> None:
        (tmp_path / "given.py").write_text("import not_there\n")
        said = problem(stream(tmp_path, PythonFunction(function="given:samples"), X))
        assert said == (
            "'given:samples' failed at given.py:1: ModuleNotFoundError: No module named "
            "'not_there'\nhint: install 'not_there', or put it beside the spec"
        )

    def test_as_it_is_no_python(self, tmp_path: Path) -> None:
        (tmp_path / "given.py").write_text("x = 1\ndef samples(:\n")
        said = problem(stream(tmp_path, PythonFunction(function="given:samples"), X))
        assert said.startswith("'given:samples' failed at given.py:2: SyntaxError: ")

    def test_as_it_wants_arguments(self, tmp_path: Path) -> None:
        (tmp_path / "given.py").write_text("def samples(count): ...\n")
        said = problem(stream(tmp_path, PythonFunction(function="given:samples"), X))
        assert "failed: TypeError: samples() missing 1 required positional argument" in said

    def test_as_it_is_not_there(self, tmp_path: Path) -> None:
        (tmp_path / "given.py").write_text("def sample(): ...\n")
        said = problem(stream(tmp_path, PythonFunction(function="given:samples"), X))
        assert said == (
            "'given:samples': 'given.py' has no function 'samples'\nhint: did you mean 'sample'?"
        )


class TestImport:
    def given(self, folder: Path, number: int) -> PythonFunction:
        folder.mkdir(parents=True, exist_ok=True)
        return function(folder, f"return {{'x': np.full((1, 2), {number}, np.float32)}}")

    def test_two_specs_may_each_have_a_module_of_one_name(self, tmp_path: Path) -> None:
        for number in (1, 2):
            folder = tmp_path / str(number)
            found = feeds(stream(folder, self.given(folder, number), X))
            assert found[0][0, 0] == number

    def test_a_module_that_was_edited_is_run_as_it_is_now(self, tmp_path: Path) -> None:
        for number in (1, 2, 3):
            found = feeds(stream(tmp_path, self.given(tmp_path, number), X))
            assert found[0][0, 0] == number

    def test_nothing_is_left_behind(self, tmp_path: Path) -> None:
        path, modules = list(sys.path), set(sys.modules)
        list(stream(tmp_path, self.given(tmp_path, 1), X))
        assert (list(sys.path), set(sys.modules)) == (path, modules)
        assert [each.name for each in tmp_path.iterdir()] == ["given.py"]

    def test_nothing_is_left_behind_by_one_that_stops_early(self, tmp_path: Path) -> None:
        data = function(tmp_path, "while True:\n    yield {'x': np.ones((1, 2), np.float32)}")
        path = list(sys.path)
        for _ in stream(tmp_path, data, X):
            assert sys.path == path
            break
        assert "given" not in sys.modules

    def test_imports_in_the_function_find_what_is_beside_it(self, tmp_path: Path) -> None:
        (tmp_path / "constants.py").write_text("NUMBER = 7\n")
        data = function(
            tmp_path,
            "from constants import NUMBER\nyield {'x': np.full((1, 2), NUMBER, np.float32)}",
        )
        said = problem(stream(tmp_path, data, X))
        assert "imports 'constants.py', and a change of that would go unseen" in said
        assert "files: [constants.py]" in said
        listed = PythonFunction(function=data.function, files=("constants.py",))
        assert feeds(stream(tmp_path, listed, X))[0][0, 0] == 7
        assert "constants" not in sys.modules

    def test_a_module_in_a_package(self, tmp_path: Path) -> None:
        (tmp_path / "package").mkdir()
        (tmp_path / "package" / "__init__.py").touch()
        (tmp_path / "package" / "other.py").write_text("NUMBER = 7\n")
        (tmp_path / "package" / "inner.py").write_text(
            "import numpy as np\nfrom .other import NUMBER\n"
            "def f():\n    return {'x': np.full((1, 2), NUMBER, np.float32)}\n"
        )
        data = PythonFunction(function="package.inner:f", files=("package/other.py",))
        assert feeds(stream(tmp_path, data, X))[0][0, 0] == 7

    def test_the_working_directory_does_not_matter(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        np.save(tmp_path / "kept.npy", np.full((1, 2), 7, np.float32))
        body = "from pathlib import Path\n"
        body += "return {'x': np.load(Path(__file__).parent / 'kept.npy')}"
        data = function(tmp_path, body)
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path)
        samples = stream(Path(), data, X)
        assert feeds(samples)[0][0, 0] == 7
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert feeds(stream(Path(".."), data, X))[0][0, 0] == 7

    def test_an_installed_module_of_that_name_that_is_loaded(self, tmp_path: Path) -> None:
        importlib.import_module("pytest")
        (tmp_path / "pytest.py").write_text("def samples(): ...\n")
        said = problem(stream(tmp_path, PythonFunction(function="pytest:samples"), X))
        assert "'pytest' is loaded already, from " in said
        assert "hint: rename 'pytest.py'" in said

    def test_a_module_that_is_installed(self, tmp_path: Path) -> None:
        data = PythonFunction(function="tests.samples.installed:samples")
        assert feeds(stream(tmp_path, data, X))[0].tolist() == [[1, 1]]
