"""Class vectors: exact where a simplex fits, spread where not, appendable where classes arrive."""

import math

import pytest
import torch

from edgecc.learn.symmetric_vectors import append, orthonormal, simplex, spread, symmetric_vectors


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("classes", "dim"), [(2, 1), (2, 7), (3, 2), (10, 9), (10, 34), (100, 99),
                                              (100, 1000)])
def test_a_simplex_has_one_cosine_between_all_its_corners(classes: int, dim: int) -> None:
    v = simplex(classes, dim, generator=generator())
    expected = torch.full((classes, classes), -1 / (classes - 1)).fill_diagonal_(1)
    assert v.shape == (classes, dim)
    torch.testing.assert_close(v @ v.T, expected, rtol=0, atol=1e-6)


def test_a_simplex_is_the_seeds_own() -> None:
    assert torch.equal(*(simplex(10, 34, generator=generator(1)) for _ in range(2)))
    assert not torch.allclose(*(simplex(10, 34, generator=generator(s)) for s in (1, 2)))


def test_one_class_has_a_unit_vector_too() -> None:
    torch.testing.assert_close(simplex(1, 5, generator=generator()).norm(), torch.tensor(1.0))


def test_a_simplex_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="10 corners does not fit 8 dimensions"):
        simplex(10, 8, generator=generator())


@pytest.mark.parametrize(("classes", "dim", "best"), [
    (5, 2, math.cos(math.tau / 5)), (4, 2, 0.0), (6, 3, 0.0), (10, 3, 0.4045), (10, 8, 0.0),
    (12, 3, 1 / math.sqrt(5)),
])
def test_a_spread_comes_close_to_the_best_known(classes: int, dim: int, best: float) -> None:
    v = spread(classes, dim, generator=generator())
    torch.testing.assert_close(v.norm(dim=1), torch.ones(classes))
    largest = (v @ v.T).fill_diagonal_(-1).max()
    assert best - 1e-3 < largest < best + 0.02


def test_fewer_dimensions_than_a_simplex_needs_are_warned_of() -> None:
    with pytest.warns(UserWarning, match="10 classes .* in 3 dimensions, 9 are needed"):
        v = symmetric_vectors(10, 3, generator=generator())
    assert v.unique(dim=0).shape == (10, 3)


def test_what_fits_is_a_simplex_without_a_warning() -> None:
    v = symmetric_vectors(10, 9, generator=generator())
    assert torch.equal(v, simplex(10, 9, generator=generator()))


def test_appended_rows_are_orthonormal_and_leave_the_old_ones_as_they_are() -> None:
    rows = generator()
    v = orthonormal(3, 12, generator=rows)
    grown = append(v, 9, generator=rows)
    assert torch.equal(grown[:3], v)
    torch.testing.assert_close(grown @ grown.T, torch.eye(12), rtol=0, atol=1e-6)
    assert torch.equal(grown, orthonormal(12, 12, generator=generator()))
    with pytest.raises(ValueError, match=r"12 \+ 1 orthonormal rows"):
        append(grown, 1, generator=rows)
