"""Files that are not what they should be: every one ends in BadSamples that names it."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from engineforge.samples import BadSamples
from tests.samples.data import Array, noise, problem, stream, tensor

GOOD = noise(8, 3, 4, 4)


def written(kind: str) -> bytes:
    file = io.BytesIO()
    save = {"npz": np.savez, "compressed": np.savez_compressed}.get(kind)
    if save is None:
        np.save(file, GOOD)
    else:
        save(file, x=GOOD)
    return file.getvalue()


def named(kind: str) -> str:
    return "x.npy" if kind == "npy" else "x.npz"


@pytest.mark.parametrize("kind", ["npz", "compressed", "npy"])
def test_cut_off_anywhere(tmp_path: Path, kind: str) -> None:
    data = written(kind)
    for length in {0, 1, 5, 9, 60, 127, 128, 129, len(data) // 2, len(data) - 1}:
        (tmp_path / named(kind)).write_bytes(data[:length])
        said = problem(stream(tmp_path, named(kind)))
        assert said.startswith(f"'{named(kind)}'"), (length, said)


@pytest.mark.parametrize("kind", ["npz", "compressed"])
def test_a_bit_that_flipped_in_a_npz_is_noticed_or_does_not_matter(
    tmp_path: Path, kind: str
) -> None:
    data = written(kind)
    random = np.random.default_rng(0)
    noticed = 0
    for at in random.integers(0, len(data), 150).tolist():
        flipped = bytearray(data)
        flipped[at] ^= 1 << int(random.integers(8))
        (tmp_path / "x.npz").write_bytes(flipped)
        try:
            found = [sample.feed["x"] for sample in stream(tmp_path)]
        except BadSamples as error:
            assert str(error).startswith("'x.npz'")
            noticed += 1
        else:
            assert np.array_equal(np.concatenate(found), GOOD), at
    assert noticed > 100


def test_a_bit_that_flipped_in_the_header_of_a_npy(tmp_path: Path) -> None:
    data = written("npy")
    for at in range(128):
        flipped = bytearray(data)
        flipped[at] ^= 0x10
        (tmp_path / "x.npy").write_bytes(flipped)
        try:
            shapes = {sample.feed["x"].shape for sample in stream(tmp_path, "x.npy")}
        except BadSamples as error:
            assert str(error).startswith("'x.npy'")
        else:
            assert shapes == {(1, 3, 4, 4)}


@pytest.mark.parametrize("kind", ["npz", "npy"])
def test_a_folders_last_file_is_looked_at_before_its_first_is_used(
    tmp_path: Path, kind: str
) -> None:
    np.savez(tmp_path / "a.npz", x=GOOD)
    (tmp_path / named(kind)).write_bytes(written(kind)[:200])
    with pytest.raises(BadSamples, match=named(kind)):
        next(iter(stream(tmp_path, ".")))


def test_a_short_array_says_how_short(tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(written("npy")[:-4])
    assert problem(stream(tmp_path, "x.npy")) == (
        "'x.npy': [8, 3, 4, 4] of float32 takes 1536 bytes, found 1532\n"
        "hint: the file is damaged: write it again"
    )


def test_bytes_after_the_array(tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(written("npy") * 2)
    assert "takes 1536 bytes, found 3200" in problem(stream(tmp_path, "x.npy"))


def test_a_member_whose_zip_says_that_it_is_longer(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", written("npy")[:-8])
    assert problem(stream(tmp_path)).startswith("'x.npz', 'x': [8, 3, 4, 4] of float32 takes 1536")


def test_a_check_sum_that_is_wrong_names_the_sample(tmp_path: Path) -> None:
    x = noise(8, 3, 64, 64)
    np.savez(tmp_path / "x.npz", x=x)
    data = bytearray((tmp_path / "x.npz").read_bytes())
    data[data.index(x[5].tobytes())] ^= 1
    (tmp_path / "x.npz").write_bytes(data)
    said = problem(stream(tmp_path, "x.npz", tensor("x", None, 3, 64, 64)))
    assert said == (
        "'x.npz', sample 7 cannot be read: Bad CRC-32 for file 'x.npy'\n"
        "hint: the file is damaged: write it again"
    )


def test_a_git_lfs_pointer(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    said = problem(stream(tmp_path))
    assert said == "'x.npz' is a Git LFS pointer, not the data\nhint: git lfs pull"


@pytest.mark.parametrize("name", ["x.npz", "x.npy"])
def test_python_objects_are_never_unpickled(tmp_path: Path, name: str) -> None:
    objects = np.array([noise(3), noise(4)], dtype=object)
    if name == "x.npz":
        np.savez(tmp_path / name, x=objects)
    else:
        np.save(tmp_path / name, objects)
    said = problem(stream(tmp_path, name))
    assert "expected numbers, found Python objects" in said
    assert "hint: give all samples one shape and stack them" in said


def test_a_pickle_is_no_array(tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(pickle.dumps([1, 2]))
    assert problem(stream(tmp_path, "x.npy")).startswith("'x.npy' cannot be read: ")


@pytest.mark.parametrize("array", [np.array(["a", "b"]), np.zeros(2, [("a", "f4"), ("b", "f4")])])
def test_what_is_no_number(tmp_path: Path, array: Array) -> None:
    np.savez(tmp_path / "x.npz", x=array)
    assert "'x.npz', 'x': expected numbers, found " in problem(stream(tmp_path))


def test_fortran_order(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.asfortranarray(GOOD))
    said = problem(stream(tmp_path))
    assert "'x.npz', 'x': samples lie across the file (Fortran order)" in said
    assert "hint: write numpy.ascontiguousarray(array)" in said


def test_no_samples(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=GOOD[:0])
    assert problem(stream(tmp_path)) == "'x.npz', 'x': there are no values in [0, 3, 4, 4]"


def test_samples_of_nothing(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((5, 0), np.float32))
    assert "there are no values in [5, 0]" in problem(stream(tmp_path, "x.npz", tensor("x", 1, 0)))


def test_a_zip_that_holds_no_arrays(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert problem(stream(tmp_path)).startswith("'x.npz': expected an array 'x', found none\n")


def test_a_compression_that_python_does_not_have(tmp_path: Path) -> None:
    data = bytearray(written("npz"))
    for at in (8, data.index(b"PK\x01\x02") + 10):
        data[at] = 97
    (tmp_path / "x.npz").write_bytes(data)
    assert "compression" in problem(stream(tmp_path))
