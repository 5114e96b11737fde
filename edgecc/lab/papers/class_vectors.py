"""Fixed unit vectors, one a class, that SPELA's layers turn their outputs towards."""

import torch
import torch.nn.functional as F
from torch import Tensor

from edgecc.learn.symmetric_vectors import symmetric_vectors

METHODS = ("farthest", "random", "simplex")


def generate_symmetric_vectors(
    num_classes: int, dim: int, method: str = "farthest", num_candidates: int = 2048,
    device: torch.device | str | None = None, dtype: torch.dtype | None = None,
    seed: int | None = None,
) -> Tensor:
    """Unit vectors (num_classes, dim), the same for the same seed on every device.

    Args:
        method: 'random' directions; 'farthest': from num_candidates random directions, one after
            the other, that whose nearest chosen one is farthest; 'simplex': all at the same angle,
            the widest there is (cosine -1/(num_classes - 1)), where dim >= num_classes - 1;
            below that spread as far as it goes, with a warning.
        seed: None draws from torch's global generator.

    Raises ValueError for an unknown method, and where dim is too small for distinct vectors.
    """
    if num_classes < 1 or dim < 1 or (dim == 1 and num_classes > 2):
        raise ValueError(f"there are no {num_classes} distinct unit vectors of {dim} dimensions")
    generator = torch.default_generator if seed is None else torch.Generator().manual_seed(seed)
    if method == "random":
        vectors = _directions(num_classes, dim, generator)
    elif method == "farthest":
        candidates = _directions(max(num_candidates, num_classes), dim, generator)
        vectors = _farthest(num_classes, candidates)
    elif method == "simplex":
        vectors = symmetric_vectors(num_classes, dim, generator=generator)
    else:
        raise ValueError(f"method {method!r} is none of {', '.join(METHODS)}")
    return vectors.to(device=device, dtype=dtype)


def _directions(count: int, dim: int, generator: torch.Generator) -> Tensor:
    return F.normalize(torch.randn(count, dim, generator=generator), dim=1)


def _farthest(count: int, candidates: Tensor) -> Tensor:
    """(count, D) of candidates (N, D); starts with the first, which is as random as any."""
    chosen = [0]
    nearest = candidates @ candidates[0]  # similarity to the most similar one chosen, (N,)
    while len(chosen) < count:
        chosen.append(int(nearest.argmin()))
        nearest = nearest.maximum(candidates @ candidates[chosen[-1]])
    return candidates[chosen]
