"""Local cross-entropy over all classes, for comparison with a contextual pair.

    L = -log softmax(ℓ)_y,   e = softmax(ℓ) - t

With `similarity` the two local losses of Nøkland & Eidnes (ICML 2019), "predsim".
"""

from edgecc.learn.backends import Array, of
from edgecc.learn.methods.scored import Scored


class Supervised(Scored):
    """As `Contextual`, with cross-entropy instead of the pair's loss."""

    def error(self, scores: Array, y: Array) -> Array:
        return entropy_error(scores, y)


def entropy_error(scores: Array, y: Array) -> Array:
    """e (B, K) of scores (B, K)."""
    e = of(scores).softmax(scores)
    e[range(len(y)), y] -= 1
    return e
