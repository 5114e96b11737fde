"""What is planned as n x n for pictures, on maps of any shape."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecc.learn import geometry

side = st.integers(1, 40)


@pytest.mark.parametrize(("size", "fits"), [
    ((14, 14), (3, 3)), ((2, 14), (2, 3)), ((1, 196), (1, 9)), ((1, 5), (1, 5)), ((1, 1), (1, 1))])
def test_a_row_has_as_many_cells_as_a_square(size: geometry.Size, fits: geometry.Size) -> None:
    assert geometry.fitted(3, size) == fits


@given(rows=side, columns=side, n=st.sampled_from([1, 3, 5]))
def test_a_window_with_a_middle_is_within_the_map(rows: int, columns: int, n: int) -> None:
    window = geometry.odd(n, (rows, columns))
    assert all(inner <= outer and inner % 2 for inner, outer in zip(
        window, geometry.fitted(n, (rows, columns)), strict=True))


@given(rows=st.integers(8, 600), columns=st.integers(8, 600))
def test_a_picture_s_stem_leaves_a_map_of_about_fifteen_rows(rows: int, columns: int) -> None:
    pool = geometry.stem_pool((rows, columns))
    assert 8 <= rows // pool[0] <= 22
    assert 8 <= columns // pool[1] <= 22


@given(columns=st.integers(1, 100_000))
def test_a_row_s_stem_leaves_as_many_cells_as_a_picture_s(columns: int) -> None:
    rows, pooled = geometry.stem_pool((1, columns))
    assert rows == 1
    assert min(columns, 113) <= columns // pooled <= 225
