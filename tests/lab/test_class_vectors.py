"""Class vectors: distinct, as far apart as their method promises, and decided by the seed."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from edgecc.lab import generate_symmetric_vectors


def largest_cosine(v: Tensor) -> float:
    return float((v @ v.T).fill_diagonal_(-1).max())


@pytest.mark.parametrize(("classes", "dim"), [(10, 10), (10, 64), (34, 34), (100, 16), (3, 2)])
def test_farthest_vectors_are_distinct_and_farther_apart_than_random_ones(
    classes: int, dim: int
) -> None:
    farthest = generate_symmetric_vectors(classes, dim, seed=0)
    drawn = generate_symmetric_vectors(classes, dim, "random", seed=0)
    assert farthest.shape == drawn.shape == (classes, dim)
    torch.testing.assert_close(farthest.norm(dim=1), torch.ones(classes))
    torch.testing.assert_close(drawn.norm(dim=1), torch.ones(classes))
    assert largest_cosine(farthest) < min(0.9, largest_cosine(drawn))


def test_each_farthest_vector_is_the_candidate_with_the_smallest_largest_cosine() -> None:
    candidates = F.normalize(torch.randn(300, 5, generator=torch.Generator().manual_seed(7)), dim=1)
    vectors = generate_symmetric_vectors(12, 5, num_candidates=300, seed=7)
    for k in range(1, 12):
        largest = (candidates @ vectors[:k].T).max(1).values
        torch.testing.assert_close((vectors[k] @ vectors[:k].T).max(), largest.min())


def test_more_classes_than_candidates_are_still_distinct_vectors() -> None:
    vectors = generate_symmetric_vectors(50, 8, num_candidates=4, seed=0)
    assert len(vectors.unique(dim=0)) == 50


def test_simplex_vectors_are_all_at_the_widest_angle() -> None:
    vectors = generate_symmetric_vectors(10, 64, "simplex", dtype=torch.float64, seed=0)
    assert vectors.dtype == torch.float64
    cosines = vectors @ vectors.T
    expected = torch.full((10, 10), -1 / 9, dtype=torch.float64).fill_diagonal_(1)
    torch.testing.assert_close(cosines, expected, atol=1e-6, rtol=0)
    with pytest.warns(UserWarning, match="cannot be equally far apart"):
        crowded = generate_symmetric_vectors(10, 3, "simplex", seed=0)
    assert largest_cosine(crowded) < 0.7


def test_without_a_seed_torchs_own_decides() -> None:
    for method in ("random", "farthest", "simplex"):
        drawn = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            drawn.append(generate_symmetric_vectors(5, 8, method))
        assert torch.equal(drawn[0], drawn[1])
        assert not torch.equal(drawn[0], drawn[2])


def test_vectors_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="no 3 distinct unit vectors of 1 dimensions"):
        generate_symmetric_vectors(3, 1)
    with pytest.raises(ValueError, match="'widest' is none of"):
        generate_symmetric_vectors(3, 4, "widest")
