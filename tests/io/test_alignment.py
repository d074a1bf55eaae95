import numpy as np
import pytest

from lemon_sc.io.alignment import read_alignment

MATRIX = np.array([[1.7, 0.008, -3.6], [0.008, -1.7, 761.3], [0, 0, 1]])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_the_matrix_is_read_as_written(tmp_path, encoding):
    path = tmp_path / "a.csv"
    path.write_text("\n".join(",".join(map(str, row)) for row in MATRIX), encoding=encoding)
    np.testing.assert_array_equal(read_alignment(path), MATRIX)
    np.testing.assert_array_equal(read_alignment(str(path)), MATRIX)
    np.testing.assert_array_equal(read_alignment(MATRIX.tolist()), MATRIX)


def test_the_real_file(xenium_outs):
    assert np.linalg.det(read_alignment(xenium_outs / "he_imagealignment.csv")) < 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fixedX,fixedY\n1,2\n", "not a 3 x 3 matrix of numbers"),
        ("1,0\n0,1\n", "finite 3 x 3"),
        ("1,0,0\n0,1,0\n0,0,2\n", "last row"),
    ],
)
def test_other_content_is_refused(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_alignment(tmp_path / "a.csv")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="No alignment file"):
        read_alignment(tmp_path / "none.csv")
