import numpy as np
from spatialdata_io.readers.xenium import cell_id_str_from_prefix_suffix_uint32

from lemon_sc.datasets._ids import cell_id_strings, split_cell_ids

PREFIX = np.array([0, 1, 15, 16, 1437536272, 2**32 - 1], dtype=np.uint32)


def test_text_is_what_the_reader_makes_of_the_numbers():
    expected = cell_id_str_from_prefix_suffix_uint32(PREFIX, np.full(len(PREFIX), 1))
    assert list(cell_id_strings(PREFIX)) == list(expected)


def test_the_published_example():
    assert cell_id_strings(np.array([1437536272]))[0] == "ffkpbaba-1"


def test_split_is_the_inverse():
    np.testing.assert_array_equal(split_cell_ids(cell_id_strings(PREFIX, 3)), np.stack([PREFIX, np.full(6, 3)], axis=1))
