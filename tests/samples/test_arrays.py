"""How arrays in files become samples: one by one, in groups, or whole; which, and how many."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.samples.data import equal, feeds, labels_of, noise, places, problem, stream, tensor


def test_an_array_of_the_inputs_rank_gives_its_rows_one_by_one(tmp_path: Path) -> None:
    x = noise(5, 3, 4, 4)
    np.savez(tmp_path / "x.npz", x=x)
    assert equal(feeds(stream(tmp_path)), [x[i : i + 1] for i in range(5)])


def test_an_array_of_one_rank_more_gives_whole_feeds(tmp_path: Path) -> None:
    x = noise(5, 2, 3, 4, 4)
    np.savez(tmp_path / "x.npz", x=x)
    assert equal(feeds(stream(tmp_path)), x)


def test_a_fixed_batch_takes_so_many_rows(tmp_path: Path) -> None:
    x = noise(6, 3)
    np.savez(tmp_path / "x.npz", x=x)
    samples = stream(tmp_path, "x.npz", tensor("x", 2, 3))
    assert equal(feeds(samples), [x[0:2], x[2:4], x[4:6]])


def test_the_rows_of_a_group_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=noise(4, 3))
    samples = stream(tmp_path, "x.npz", tensor("x", 2, 3))
    assert places(samples)[1] == "'x.npz', sample 1 (rows 2 to 3)"


def test_rows_that_fill_no_group_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=noise(7, 3))
    said = problem(stream(tmp_path, "x.npz", tensor("x", 2, 3)))
    assert said == (
        "'x.npz', input 'x': 7 rows, and the model takes 2 at a time\nhint: leave out the last 1"
    )


def test_a_scalar_input_takes_one_number_a_sample(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=noise(3))
    assert [each.shape for each in feeds(stream(tmp_path, "x.npz", tensor("x")))] == [(), (), ()]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_both_ways_to_write_a_npz_are_read(tmp_path: Path, save: object) -> None:
    assert callable(save)
    x = noise(5, 3, 4, 4)
    save(tmp_path / "x.npz", x=x)
    assert equal(feeds(stream(tmp_path)), [x[i : i + 1] for i in range(5)])


def test_a_npy_serves_a_model_with_one_input(tmp_path: Path) -> None:
    x = noise(5, 3, 4, 4)
    np.save(tmp_path / "x.npy", x)
    assert equal(feeds(stream(tmp_path, "x.npy")), [x[i : i + 1] for i in range(5)])


def test_a_npy_is_too_little_for_two_inputs(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", noise(5, 3))
    said = problem(stream(tmp_path, "x.npy", tensor("a", None, 3), tensor("b", None, 3)))
    assert "'x.npy': a .npy file has one array, expected 'a', 'b'" in said
    assert "hint: write a .npz: numpy.savez(file, a=..., b=...)" in said


def test_several_inputs_go_together(tmp_path: Path) -> None:
    a, b = noise(4, 3), np.arange(8).reshape(4, 1, 2)
    np.savez(tmp_path / "x.npz", a=a, b=b)
    inputs = tensor("a", "batch", 3), tensor("b", "batch", 2, type="int64")
    samples = stream(tmp_path, "x.npz", *inputs)
    assert equal(feeds(samples, "a"), [a[i : i + 1] for i in range(4)])
    assert equal(feeds(samples, "b"), b)


def test_inputs_with_different_numbers_of_samples_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=noise(4, 3), b=noise(5, 3))
    said = problem(stream(tmp_path, "x.npz", tensor("a", None, 3), tensor("b", None, 3)))
    assert said == "'x.npz': the arrays have different numbers of samples: 'a' 4, 'b' 5"


def test_other_arrays_are_left_alone(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=noise(2, 3, 4, 4), note=np.array(["text"]), label=np.arange(9))
    assert len(list(stream(tmp_path))) == 2


def test_big_endian_arrays_are_the_same_numbers(tmp_path: Path) -> None:
    x = noise(2, 3, 4, 4)
    np.savez(tmp_path / "x.npz", x=x.astype(">f4"))
    found = feeds(stream(tmp_path))
    assert equal(found, [x[0:1], x[1:2]])
    assert found[0].dtype.isnative


def test_arrays_can_be_written_to(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=noise(2, 3, 4, 4))
    assert all(each.flags.writeable for each in feeds(stream(tmp_path)))


def test_a_folder_is_its_files_one_after_another(tmp_path: Path) -> None:
    x = noise(6, 3, 4, 4)
    np.savez(tmp_path / "b.npz", x=x[2:3])
    np.savez(tmp_path / "a.npz", x=x[:2])
    np.save(tmp_path / "c.npy", x[3:, np.newaxis])
    samples = stream(tmp_path, ".")
    assert equal(feeds(samples), x[:, np.newaxis])
    assert places(samples)[3] == "'c.npy', sample 0"


def test_each_iteration_starts_anew(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=noise(4, 3, 4, 4))
    samples = stream(tmp_path)
    next(iter(samples))
    assert equal(feeds(samples), feeds(samples))


def test_two_iterations_do_not_disturb_each_other(tmp_path: Path) -> None:
    x = noise(4, 3, 4, 4)
    np.savez(tmp_path / "x.npz", x=x)
    samples = stream(tmp_path)
    pairs = list(zip(samples, samples, strict=True))
    assert all(np.array_equal(a.feed["x"], b.feed["x"]) for a, b in pairs)


class TestLabels:
    def test_one_for_each_row(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "x.npz", x=noise(3, 3, 4, 4), label=np.array([7, 8, 9]))
        assert labels_of(stream(tmp_path, labels="label")) == [[7], [8], [9]]

    def test_as_many_as_a_group_has_rows(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "x.npz", x=noise(4, 3), y=np.arange(4, dtype=np.uint8))
        samples = stream(tmp_path, "x.npz", tensor("x", 2, 3), labels="y")
        assert labels_of(samples) == [[0, 1], [2, 3]]

    def test_of_whole_feeds_are_whole(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "x.npz", x=noise(2, 3, 3, 4, 4), y=np.arange(6).reshape(2, 3))
        assert labels_of(stream(tmp_path, labels="y")) == [[0, 1, 2], [3, 4, 5]]

    def test_are_none_unless_asked_for(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "x.npz", x=noise(3, 3, 4, 4), label=np.arange(3))
        assert [sample.labels for sample in stream(tmp_path)] == [None] * 3

    def test_follow_the_samples_that_are_chosen(self, tmp_path: Path) -> None:
        np.savez(
            tmp_path / "x.npz",
            x=np.arange(9, dtype=np.float32)[:, np.newaxis],
            y=np.arange(9),
        )
        samples = stream(tmp_path, "x.npz", tensor("x", None, 1), labels="y", samples=4, seed=1)
        assert [[int(each[0, 0])] for each in feeds(samples)] == labels_of(samples)

    def test_must_be_there(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "x.npz", x=noise(3, 3, 4, 4), labels=np.arange(3))
        said = problem(stream(tmp_path, labels="label"))
        assert said == (
            "'x.npz': expected an array 'label', found 'labels', 'x'\n"
            "hint: call the array what the model, or 'labels', calls it: "
            "numpy.savez(file, label=...)"
        )

    def test_must_be_as_many(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "x.npz", x=noise(3, 3, 4, 4), y=np.arange(4))
        assert "3 samples, and labels 'y' of [4]" in problem(stream(tmp_path, labels="y"))

    def test_must_be_integers(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "x.npz", x=noise(3, 3, 4, 4), y=noise(3))
        said = problem(stream(tmp_path, labels="y"))
        assert "labels 'y': expected integers, found float32" in said

    def test_have_no_place_in_a_npy(self, tmp_path: Path) -> None:
        np.save(tmp_path / "x.npy", noise(3, 3, 4, 4))
        assert "expected 'x', 'y'" in problem(stream(tmp_path, "x.npy", labels="y"))


class TestChoosing:
    def numbers(self, tmp_path: Path, samples: int | None, seed: int | None) -> list[int]:
        """Of 0 to 19, in three files."""
        x = np.arange(20, dtype=np.float32)[:, np.newaxis]
        np.savez(tmp_path / "a.npz", x=x[:3])
        np.savez_compressed(tmp_path / "b.npz", x=x[3:15])
        np.save(tmp_path / "c.npy", x[15:])
        found = stream(tmp_path, ".", tensor("x", None, 1), samples=samples, seed=seed)
        return [int(each[0, 0]) for each in feeds(found)]

    def test_all_by_default(self, tmp_path: Path) -> None:
        assert self.numbers(tmp_path, None, None) == list(range(20))

    def test_the_first_ones(self, tmp_path: Path) -> None:
        assert self.numbers(tmp_path, 4, None) == [0, 1, 2, 3]

    def test_by_a_seed_in_the_order_of_the_data(self, tmp_path: Path) -> None:
        expected = np.random.default_rng(5).choice(20, 8, replace=False)
        assert self.numbers(tmp_path, 8, 5) == sorted(expected.tolist())

    def test_another_seed_chooses_others(self, tmp_path: Path) -> None:
        assert self.numbers(tmp_path, 8, 5) != self.numbers(tmp_path, 8, 6)

    def test_files_that_nothing_is_chosen_of_are_read_no_further_than_their_start(
        self, tmp_path: Path
    ) -> None:
        np.savez(tmp_path / "a.npz", x=noise(3, 3, 4, 4))
        spoilt = noise(3, 3, 4, 4)
        spoilt[1] = np.nan
        np.savez(tmp_path / "b.npz", x=spoilt)
        assert len(list(stream(tmp_path, ".", samples=3))) == 3

    def test_more_than_there_are(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "x.npz", x=noise(3, 3, 4, 4))
        said = problem(stream(tmp_path, samples=8))
        assert said.startswith("'x.npz' has 3 samples, and 'samples' asks for 8\nhint: ")

    @pytest.mark.parametrize("samples", [None, 7])
    def test_fewer_than_are_needed(self, tmp_path: Path, samples: int | None) -> None:
        np.savez(tmp_path / "x.npz", x=noise(7, 3, 4, 4))
        said = problem(stream(tmp_path, samples=samples, fewest=8))
        assert said.startswith("'x.npz': expected 8 samples or more, found 7\n")


class TestCount:
    def test_is_known_from_headers(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", x=noise(3, 3, 4, 4))
        np.save(tmp_path / "b.npy", noise(4, 3, 4, 4))
        assert stream(tmp_path, ".").count() == 7

    def test_is_of_those_chosen(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "x.npz", x=noise(3, 3, 4, 4))
        assert stream(tmp_path, samples=2).count() == 2


def test_shapes_are_told_with_the_first_sample_of_each(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=noise(2, 3, 4, 4))
    np.savez(tmp_path / "b.npz", x=noise(2, 3, 8, 4))
    np.savez(tmp_path / "c.npz", x=noise(1, 3, 4, 4))
    samples = stream(tmp_path, ".", tensor("x", None, 3, "height", "width"))
    list(samples)
    assert samples.shapes() == {
        "x": [((1, 3, 4, 4), "'a.npz', sample 0"), ((1, 3, 8, 4), "'b.npz', sample 0")]
    }
