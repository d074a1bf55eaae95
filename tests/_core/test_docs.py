import pytest

from lemon_sc._core.docs import PARAMS, doc


def test_placeholders_are_filled_at_their_indentation():
    @doc
    def verb(adata, *, rng=0):
        """Do it.

        Parameters
        ----------
        %(adata)s
        %(rng)s
        """

    assert verb.__doc__.splitlines()[4:6] == ["adata", PARAMS["adata"].split("\n")[1]]
    assert PARAMS["rng"] in verb.__doc__


def test_an_unknown_placeholder_is_noticed_at_import():
    with pytest.raises(KeyError, match="nonsense"):

        @doc
        def verb():
            """%(nonsense)s"""


def test_a_function_without_docstring_is_left_alone():
    @doc
    def verb(): ...

    assert verb.__doc__ is None
