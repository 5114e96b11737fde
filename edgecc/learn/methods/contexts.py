"""What the context of a class is, and how one shared pass scores every class without a label.

    linear  ℓ_k = w_kᵀ norm(pool_g(a)) + c_k     the context of class k is the vector w_k
    bias    y^k = ReLU(n + β_k),  G_k = mean of (y^k)²       (Abbassi et al. 2025)
    scale   y^k = γ_k ⊙ a,        G_k = mean of (y^k)²

with ℓ_k = τ (G_k - θ) for the last two. Each has its gradients in closed form from e = ∂L/∂ℓ.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

from edgecc.learn.backends import Array, namespace, of
from edgecc.learn.blocks import Pass
from edgecc.learn.grid_pool import GridPool
from edgecc.learn.norms import BatchNorm, Normal, inner

# from e (B, K) to [∂L/∂own], and ∂L/∂ the block's output or its n
Backward = Callable[[Array], tuple[list[Array], Array | None, Array | None]]
THETA = 1.0


class Context(ABC):
    """Turns a pass into scores; `own` are its trainable parameters, by name."""

    own: dict[str, Array]

    @abstractmethod
    def forward(self, done: Pass) -> tuple[Array, Backward]:
        """Scores (B, K) of a training pass, and its backward function."""

    def frozen(self, done: Pass) -> Array:
        """Scores (B, K) of a serving pass."""
        return self.forward(done)[0]

    def calibrate(self, passes: Iterable[Pass]) -> None:  # noqa: B027
        """Measure the population of a norm of its own; most have none."""

    def norms(self) -> dict[str, BatchNorm]:
        return {}


class LinearContext(Context):
    """w (K, C·gh·gw) and c (K,), from zero: before the first step all classes score the same."""

    def __init__(self, like: Array, *, classes: int, channels: int, pool: GridPool) -> None:
        xp = namespace(like)
        self.w = xp.zeros((classes, channels * pool.cells), dtype=like.dtype)
        self.c = xp.zeros(classes, dtype=like.dtype)
        self.own = {"w": self.w, "c": self.c}
        self._pool, self._norm = pool, BatchNorm()

    def forward(self, done: Pass) -> tuple[Array, Backward]:
        p = self._pool.forward(done.a)                    # (B, C·gh·gw)
        normal = Normal.of(p)
        q = normal.applied(p)

        def backward(e: Array) -> tuple[list[Array], Array, None]:
            own, dq = [e.T @ q, e.sum(0)], e @ self.w
            dp = normal.through_statistics(q, dq.sum(0), inner(dq, q))
            dp += normal.scaled(dq)
            return own, self._pool.backward(dp, done.a), None

        return q @ self.w.T + self.c, backward

    def frozen(self, done: Pass) -> Array:
        return self._norm.population.applied(self._pool.forward(done.a)) @ self.w.T + self.c

    def calibrate(self, passes: Iterable[Pass]) -> None:
        self._norm.measure(self._pool.forward(done.a) for done in passes)

    def norms(self) -> dict[str, BatchNorm]:
        return {"context": self._norm}


class BiasContext(Context):
    """β (K, C) is 0.1 times `draws`; G_k is a mean over the values of n."""

    def __init__(self, draws: Array, tau: float) -> None:
        self.beta, self.tau = 0.1 * draws, tau
        self.own = {"beta": self.beta}

    def forward(self, done: Pass) -> tuple[Array, Backward]:
        n = done.n

        def backward(e: Array) -> tuple[list[Array], None, Array]:
            xp, factor = namespace(n), 2 * self.tau / math.prod(n.shape[1:])
            dn, dbeta = xp.zeros_like(n), xp.zeros_like(self.beta)
            for pull, k in _pulls(factor * e):
                dy = (n + self.beta[k][:, :, None, None]).clip(0) * pull[:, None, None, None]
                dn += dy
                member = xp.arange(len(dbeta))[:, None] == k
                dbeta += xp.asarray(member, dtype=dy.dtype) @ dy.sum((2, 3))
            return [dbeta], None, dn

        return self.tau * (goodness_of_biases(n, self.beta) - THETA), backward


def _pulls(e: Array) -> Iterable[tuple[Array, Array]]:
    """Non-zero errors (B,) with their classes (B,): two of a pair, K of cross-entropy."""
    count, rows = int((e != 0).sum(1).max()), range(len(e))
    largest = namespace(e).argsort(-abs(e))[:, :count]
    return [(e[rows, k], k) for k in largest.T]


def goodness_of_biases(n: Array, beta: Array) -> Array:
    """G (B, K) = mean over n's values of ReLU(n + β_k)², exact, in one pass for all classes.

    Each value falls between two of a channel's K sorted thresholds -β. With the count N and the
    sums S1 and S2 of values and squares above a threshold, Σ ReLU(n + β)² = N β² + 2 β S1 + S2.
    """
    xp, (samples, channels), classes = namespace(n), n.shape[:2], len(beta)
    z = n.reshape(samples * channels, -1)
    order = xp.argsort(-beta.T)  # (C, K)
    threshold = -beta.T[xp.arange(channels)[:, None], order]
    by_channel = n.reshape(samples, channels, -1).swapaxes(0, 1).reshape(channels, -1)
    place = of(n).count_below(threshold, by_channel)  # thresholds below each value
    place = place.reshape(channels, samples, -1).swapaxes(0, 1).reshape(z.shape)
    count, s1, s2 = (
        _sums_above(part, place, classes).reshape(samples, channels, classes)
        for part in (xp.ones_like(z), z, z * z))
    total = count * threshold * threshold - 2 * threshold * s1 + s2  # by threshold
    by_class = xp.empty_like(total)
    by_class[:, xp.arange(channels)[:, None], order] = total
    return by_class.mean(1) / z.shape[1]


def _sums_above(values: Array, place: Array, count: int) -> Array:
    """(R, count): for each row and each sorted threshold, the sum of the values above it."""
    xp, bins = namespace(values), of(values).bin_sums(values, place, count + 1)
    return xp.flip(xp.cumsum(xp.flip(bins, (1,)), 1), (1,))[:, 1:]


class ScaleContext(Context):
    """γ (K, C) is 1 + 0.01 times `draws`; with s_c = mean of a², one product scores all classes."""

    def __init__(self, draws: Array, tau: float) -> None:
        self.gamma, self.tau = 1 + 0.01 * draws, tau
        self.own = {"gamma": self.gamma}

    def forward(self, done: Pass) -> tuple[Array, Backward]:
        a, channels = done.a, done.a.shape[1]
        s = (a * a).mean((2, 3))                          # (B, C)
        square = self.gamma * self.gamma                  # (K, C)

        def backward(e: Array) -> tuple[list[Array], Array, None]:
            pull = e @ square * (2 * self.tau / math.prod(a.shape[1:]))
            own = (2 * self.tau / channels) * self.gamma * (e.T @ s)
            return [own], a * pull[:, :, None, None], None

        return self.tau * (s @ square.T / channels - THETA), backward
