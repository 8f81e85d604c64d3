"""Results in the benchmark's format: written, read, and what is wrong with a file."""
import numpy as np
import pytest
import torch

from blaze_utils.measure.submission import SubmissionError, read_submission, write_submission

ROWS = np.array([[1, 2, 4, 6, 0.25], [10.5, 20, 10.5, 30, 0.75]])


def test_the_file_of_an_image(tmp_path):
    write_submission(tmp_path / "new", {"0--Parade/a_1.jpg": ROWS, "0--Parade/b.jpg": ROWS[:0]})
    folder = tmp_path / "new" / "0--Parade"
    assert (folder / "a_1.txt").read_bytes() == (
        b"a_1.jpg\n2\n10.5 20 0 10 0.75\n1 2 3 4 0.25\n")
    assert (folder / "b.txt").read_bytes() == b"b.jpg\n0\n"
    assert len(list(folder.iterdir())) == 2


def test_what_is_written_is_read_back(tmp_path):
    rng = np.random.default_rng(0)
    corners = rng.uniform(-20, 1000, (50, 2))
    rows = np.hstack([corners, corners + rng.uniform(0, 300, (50, 2)), rng.random((50, 1))])
    rows = rows[np.argsort(-rows[:, 4])].astype(np.float32)
    written = {"e/Grüße 脸.v2.jpg": torch.from_numpy(rows), "plain.png": rows[:3],
               "e/no.jpg": rows[:0]}
    write_submission(tmp_path, written)
    found = read_submission(tmp_path)
    assert found.keys() == written.keys()
    assert found["e/no.jpg"].shape == (0, 5)
    np.testing.assert_array_equal(found["plain.png"][:, [0, 1, 4]].astype(np.float32),
                                  rows[:3, [0, 1, 4]])
    np.testing.assert_allclose(found["e/Grüße 脸.v2.jpg"], rows, rtol=1e-7, atol=1e-6)


@pytest.mark.parametrize("first_line", ["a_1", "a_1.jpg", "0--Parade/a_1.jpg", "0--Parade/a_1"])
def test_files_of_other_programs(tmp_path, first_line):
    text = f"\ufeff{first_line}\r\n1\r\n1 2 3 4 0.5 \r\n\r\n"
    (tmp_path / "0--Parade").mkdir()
    (tmp_path / "0--Parade" / "a_1.txt").write_bytes(text.encode())
    found = read_submission(tmp_path)
    assert list(found) == ["0--Parade/a_1.jpg"]
    assert found["0--Parade/a_1.jpg"].tolist() == [[1, 2, 4, 6, 0.5]]


@pytest.mark.parametrize("text, line, reason", [
    (b"", 1, "expected the image's name"),
    (b"a.jpg\n", 1, "expected the image's name"),
    (b"b.jpg\n0\n", 1, "names 'b.jpg'"),
    (b"a.jpg\n2\n1 2 3 4 0.5\n", 2, "which is 1, got '2'"),
    (b"a.jpg\nmany\n", 2, "which is 0, got 'many'"),
    (b"a.jpg\n1\n1 2 3 0.5\n", 3, "expected x y w h score"),
    (b"a.jpg\n1\n1 2 3 4 0.5 6\n", 3, "expected x y w h score"),
    (b"a.jpg\n1\n1 2 3 x 0.5\n", 3, "expected x y w h score"),
    (b"a.jpg\n2\n1 2 3 4 0.5\n1 2 3 nan 0.5\n", 4, "expected finite"),
    (b"a.jpg\n1\n1e308 2 1e308 4 0.5\n", 3, "expected finite"),
    (b"a.jpg\n1\n1 2 -3 4 0.5\n", 3, "not below 0"),
    (b"\xff\xfe", None, "not UTF-8"),
])
def test_wrong_files_are_named_with_the_line(tmp_path, text, line, reason):
    path = tmp_path / "a.txt"
    path.write_bytes(text)
    with pytest.raises(SubmissionError) as caught:
        read_submission(tmp_path)
    assert str(caught.value).startswith(f"{path}:{line}: " if line else f"{path}: ")
    assert reason in str(caught.value)


def test_no_results(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match="no results"):
            read_submission(folder)


@pytest.mark.parametrize("name", [
    "", ".", "..", "a", "../a.jpg", "e/../a.jpg", "/a.jpg", "//a.jpg", "C:/a.jpg", "C:a.jpg",
    "e\\a.jpg", "e//a.jpg", "./a.jpg", "a.jpg/", "a\n.jpg", "e/ a.jpg", "a.jpg ", "a\0.jpg",
])
def test_names_that_would_leave_the_folder_or_not_come_back(tmp_path, name):
    with pytest.raises(SubmissionError, match="image name .*expected a path"):
        write_submission(tmp_path / "new", {"fine.jpg": ROWS, name: ROWS})
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("predictions, reason", [
    ({}, "no predictions"),
    ({"a.jpg": ROWS, "a.png": ROWS}, "the file of another image"),
    ({"a.jpg": ROWS[:, :4]}, r"a\.jpg: expected shape \[N, 5\], got \[2, 4\]"),
    ({"a.jpg": ROWS * np.nan}, r"a\.jpg: expected finite"),
    ({"a.jpg": [[4, 2, 1, 6, 0.5]]}, r"a\.jpg: expected finite x1 <= x2"),
])
def test_what_could_not_be_evaluated_is_not_written(tmp_path, predictions, reason):
    with pytest.raises(SubmissionError, match=reason):
        write_submission(tmp_path / "new", predictions)
    assert not (tmp_path / "new").exists()


def test_old_results_of_other_images_do_not_mix_with_new_ones(tmp_path):
    write_submission(tmp_path, {"e/a.jpg": ROWS, "e/b.jpg": ROWS})
    with pytest.raises(SubmissionError, match=r"results of other images.*b\.txt"):
        write_submission(tmp_path, {"e/a.jpg": ROWS[:1]})
    write_submission(tmp_path, {"e/b.jpg": ROWS, "e/a.jpg": ROWS[:1]})
    assert len(read_submission(tmp_path)["e/a.jpg"]) == 1
