"""Every method on every block, small enough to check; and the same losses written for autograd."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edgecc.bench.learning.published_recipe import Goodness
from edgecc.learn.backends import Backend, named
from edgecc.learn.blocks import Block, CoConv, Linear, PoolConv
from edgecc.learn.contextual_pairs import generate_wrong_labels
from edgecc.learn.methods.base import Method
from edgecc.learn.methods.contextual import Contextual
from edgecc.learn.methods.spela import Spela, SpelaChannels
from edgecc.learn.methods.supervised import Supervised
from edgecc.learn.symmetric_vectors import symmetric_vectors

Size = tuple[int, int]
Parameters = dict[str, Tensor]
Scores = Callable[[Any, Tensor, Tensor, Parameters], Tensor]
Loss = Callable[[Any, Tensor, Tensor, Tensor, Parameters, Tensor], Tensor]

CHANNELS, SLOPE = 8, 0.1


@dataclass(frozen=True)
class Plane:
    size: Size
    pool: Size
    kernel: Size


PLANES = {
    "2-D": Plane((6, 8), (2, 2), (3, 3)),
    "1-D": Plane((1, 16), (1, 2), (1, 3)),
}


# --- blocks: how to make one, and its n and a for autograd ---


def make_block(
    name: str, plane: Plane, c_in: int, size: Size, generator: Any, dtype: Any
) -> Block:
    kind, norm = name.split()
    rest: Any = {"norm": norm, "generator": generator, "dtype": dtype}
    if kind == "PoolConv":
        return PoolConv(c_in, plane.pool, CHANNELS, plane.kernel, **rest)
    if kind == "CoConv":
        return CoConv(c_in, plane.pool, CHANNELS, 3, k=plane.kernel, **rest)
    return Linear(c_in * size[0] * size[1], CHANNELS, slope=SLOPE, **rest)


BLOCKS = ("PoolConv batch", "PoolConv input", "CoConv batch", "CoConv input",
          "Linear batch", "Linear input", "Linear length", "Linear none")


def expected_pass(
    name: str, plane: Plane, h: Tensor, parameters: Parameters
) -> tuple[Tensor, Tensor]:
    """(n, a) by torch's own operators."""
    kind, norm = name.split()
    dense = kind == "Linear"
    slope = SLOPE if dense else 0.0
    pool = (1, 1) if dense else plane.pool
    bias = parameters.get("bias")
    if norm != "batch":
        h = F.max_pool2d(h, pool)
        square = h.square().sum((1, 2, 3), keepdim=True)
        h = {"input": h / (square / h[0].numel()).sqrt(), "length": h / square.sqrt(),
             "none": h}[norm]
    if dense:
        z = F.linear(h.flatten(1), parameters["weight"], bias)[:, :, None, None]
    else:
        weights = [parameters[k] for k in sorted(parameters) if k.startswith("weight")]
        half = plane.kernel[0] // 2, plane.kernel[1] // 2
        z = torch.cat([
            F.conv2d(h, w, padding=(d * half[0], d * half[1]), dilation=d)
            for d, w in enumerate(weights, start=1)], 1)
        z = z if bias is None else z + bias.view(1, -1, 1, 1)
    if norm != "batch":
        return z, F.leaky_relu(z, slope)
    n = F.batch_norm(z, None, None, training=True, eps=1e-5)
    return n, F.max_pool2d(F.leaky_relu(n, slope), pool)


# --- scores for autograd ---


def pooled(a: Tensor) -> Tensor:
    """Windows that leave nothing out; the sizes used here divide by a grid of four, or are less."""
    return F.adaptive_avg_pool2d(a, [min(4, side) for side in a.shape[2:]]).flatten(1)


def linear_scores(method: Any, n: Tensor, a: Tensor, p: Parameters) -> Tensor:
    q = F.batch_norm(pooled(a), None, None, training=True, eps=1e-5)
    return F.linear(q, p["w"], p["c"])


def bias_scores(method: Any, n: Tensor, a: Tensor, p: Parameters) -> Tensor:
    goodness = [(n + beta.view(1, -1, 1, 1)).relu().square().mean((1, 2, 3)) for beta in p["beta"]]
    return 8 * (torch.stack(goodness, 1) - 1)


def scale_scores(method: Any, n: Tensor, a: Tensor, p: Parameters) -> Tensor:
    goodness = [(gamma.view(1, -1, 1, 1) * a).square().mean((1, 2, 3)) for gamma in p["gamma"]]
    return 8 * (torch.stack(goodness, 1) - 1)


def cosines(method: Any, n: Tensor, a: Tensor, p: Parameters) -> Tensor:
    return F.normalize(a.flatten(1)) @ method.vectors.T


def channel_cosines(method: Any, a: Tensor, p: Parameters) -> list[Tensor]:
    """For each channel (B, K): to the vector of each class's group."""
    return [
        F.normalize(a[:, j].flatten(1) @ p["projection"][j]) @ vectors[group].T
        for j, (vectors, group) in enumerate(zip(method.vectors, method.group, strict=True))
    ]


def goodness_scores(method: Any, n: Tensor, a: Tensor, p: Parameters) -> Tensor:
    logit = a.flatten(1).square().sum(1) - a[0].numel()
    return torch.stack([torch.zeros_like(logit), logit], 1)


# --- losses for autograd ---


def pair_loss(scores: Tensor, y: Tensor, wrong: Tensor | None = None) -> Tensor:
    loss = F.softplus(-scores[range(len(y)), y])
    if scores.shape[1] > 1:
        if wrong is None:
            true = F.one_hot(y, scores.shape[1]).bool()
            wrong = scores.detach().masked_fill(true, -torch.inf).argmax(1)
        loss = loss + F.softplus(scores[range(len(y)), wrong])
    return loss.mean()


def hardest(method: Any, s: Tensor, n: Tensor, a: Tensor, p: Parameters, y: Tensor) -> Tensor:
    return pair_loss(s, y)


def random(method: Any, s: Tensor, n: Tensor, a: Tensor, p: Parameters, y: Tensor) -> Tensor:
    if s.shape[1] == 1:
        return pair_loss(s, y)
    generator = torch.Generator().set_state(method.state()["generator"])
    return pair_loss(s, y, generate_wrong_labels(y, s.shape[1], generator))


def all_wrong(method: Any, s: Tensor, n: Tensor, a: Tensor, p: Parameters, y: Tensor) -> Tensor:
    true = F.one_hot(y, s.shape[1]).bool()
    others = s.masked_fill(true, -1e9).logsumexp(1)
    return (F.softplus(-s[true]) + F.softplus(others)).mean()


def entropy(method: Any, s: Tensor, n: Tensor, a: Tensor, p: Parameters, y: Tensor) -> Tensor:
    return F.cross_entropy(s, y)


def similar(a: Tensor, y: Tensor, classes: int) -> Tensor:
    """Nøkland & Eidnes's similarity matching loss."""
    f = pooled(a)
    centred = f - f.mean(1, keepdim=True)
    one_hot = F.one_hot(y, classes).to(f.dtype)
    targets = one_hot - one_hot.mean(1, keepdim=True)
    alike, wanted = (
        F.cosine_similarity(t[:, None], t[None], dim=2) for t in (centred, targets))
    return F.mse_loss(alike, wanted)


def pair_and_similar(
    method: Any, s: Tensor, n: Tensor, a: Tensor, p: Parameters, y: Tensor
) -> Tensor:
    return pair_loss(s, y) + 3 * similar(a, y, s.shape[1])


def turning(of_cosine: Callable[[Tensor], Tensor]) -> Loss:
    def loss(method: Any, s: Tensor, n: Tensor, a: Tensor, p: Parameters, y: Tensor) -> Tensor:
        return of_cosine(s[range(len(y)), y]).mean()

    return loss


def nearest(method: Any, s: Tensor, n: Tensor, a: Tensor, p: Parameters, y: Tensor) -> Tensor:
    return F.cross_entropy(s / 0.05, y)


def channel_loss(method: Any, s: Tensor, n: Tensor, a: Tensor, p: Parameters, y: Tensor) -> Tensor:
    each = [(1 - c[range(len(y)), y]).square().mean() for c in channel_cosines(method, a, p)]
    return torch.stack(each).sum()


def binary(method: Any, s: Tensor, n: Tensor, a: Tensor, p: Parameters, y: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(s[:, 1], y.to(s.dtype))


# --- methods ---


@dataclass(frozen=True)
class Kind:
    """A method: how to make it for (block, classes, size, generator), its scores and its loss."""

    make: Callable[[Block, int, Size, Any], Method]
    scores: Scores
    loss: Loss
    own: tuple[str, ...]


def _scored(cls: Any, scores: Scores, loss: Loss, *own: str, **options: Any) -> Kind:
    return Kind(
        lambda b, k, s, g: cls(b, classes=k, size=s, generator=g, **options), scores, loss, own)


def _spela(named: str, loss: Loss) -> Kind:
    def make(block: Block, classes: int, size: Size, generator: Any) -> Method:
        dim = torch.Size(block.output_shape(size)).numel()
        vectors = symmetric_vectors(classes, dim, generator=generator)
        return Spela(block, vectors=vectors, loss=named)  # type: ignore[arg-type]

    return Kind(make, cosines, loss, ())


METHODS = {
    "linear": _scored(Contextual, linear_scores, hardest, "w", "c"),
    "linear random": _scored(Contextual, linear_scores, random, "w", "c", wrong="random"),
    "linear all": _scored(Contextual, linear_scores, all_wrong, "w", "c", wrong="all"),
    "linear similar": _scored(
        Contextual, linear_scores, pair_and_similar, "w", "c", similarity=3.0),
    "bias": _scored(Contextual, bias_scores, hardest, "beta", mode="bias"),
    "bias random": _scored(Contextual, bias_scores, random, "beta", mode="bias", wrong="random"),
    "scale": _scored(Contextual, scale_scores, hardest, "gamma", mode="scale"),
    "supervised": _scored(Supervised, linear_scores, entropy, "w", "c"),
    "supervised bias": _scored(Supervised, bias_scores, entropy, "beta", mode="bias"),
    "supervised scale": _scored(Supervised, scale_scores, entropy, "gamma", mode="scale"),
    "spela cosine": _spela("cosine", turning(lambda c: -c)),
    "spela log": _spela("log", turning(lambda c: (2 - c).log())),
    "spela squared": _spela("squared", turning(lambda c: (1 - c).square())),
    "spela softmax": _spela("softmax", nearest),
    "spela channels": _scored(
        SpelaChannels,
        lambda m, n, a, p: torch.stack(channel_cosines(m, a, p)).mean(0),
        channel_loss, "projection", dim=12),
    "goodness": Kind(lambda b, k, s, g: Goodness(b), goodness_scores, binary, ()),
}


def pairs(backend: Backend) -> list[tuple[str, str, str, Backend]]:
    """(method, block, plane, backend) that make sense."""
    every = itertools.product(METHODS, BLOCKS, PLANES)
    return [(*names, backend) for names in every if not any(refused(*names, backend))]


def refused(method: str, block: str, plane: str, backend: Backend) -> tuple[bool, ...]:
    dense = block.startswith("Linear")
    return (
        method == "goodness" and backend == "numpy",  # the published recipe is for comparison
        block.startswith("CoConv") and plane == "1-D" and backend == "numpy",  # as 2-D, only slow
        dense and plane == "1-D",  # flattened, it is the other case again
        dense and method == "spela channels",  # no maps to project
        block.endswith("batch") and method == "goodness",  # the norm fixes the goodness
    )


def make(
    method: str, block: str, plane: str, backend: Backend = "torch", *, classes: int = 3,
    c_in: int = 2, size: Size | None = None, seed: int = 0, dtype: str = "float32",
) -> Method:
    ops = named(backend)
    generator, dtype = ops.generator(seed), getattr(ops.namespace, dtype)
    size = PLANES[plane].size if size is None else size
    made = make_block(block, PLANES[plane], c_in, size, generator, dtype)
    return METHODS[method].make(made, classes, size, generator)


def autograd(
    method: Method, names: tuple[str, str, str, Backend], u: Tensor, y: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Scores and the mean loss's gradients, from the equations alone."""
    kind, state = METHODS[names[0]], method.state()
    with torch.enable_grad():
        trained = [*method.block.parameters, *kind.own]
        p = {name: state[name].clone().requires_grad_() for name in trained}
        n, a = expected_pass(names[1], PLANES[names[2]], u, p)
        scores = kind.scores(method, n, a, p)
        loss = kind.loss(method, scores, n, a, p, y)
        return scores.detach(), list(torch.autograd.grad(loss, list(p.values())))
