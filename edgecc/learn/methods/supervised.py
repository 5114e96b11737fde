"""Local cross-entropy over all classes, for comparison with a contextual pair.

    L = -log softmax(ℓ)_y,   e = softmax(ℓ) - t

With `similarity` the two local losses of Nøkland & Eidnes (ICML 2019), "predsim".
"""

import torch
from torch import Tensor

from edgecc.learn.methods.scored import Scored


class Supervised(Scored):
    """Trains `block` to score as `Contextual` does, by another error."""

    def error(self, scores: Tensor, y: Tensor) -> Tensor:
        e = scores.softmax(1)
        e[torch.arange(len(y)), y] -= 1
        return e
