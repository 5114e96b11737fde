"""The formulas of the methods against plain arithmetic; and what each learns on real digits."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from edgecc.bench.learning.published_recipe import CompatNetwork
from edgecc.learn.blocks import CoConv, PoolConv
from edgecc.learn.methods.base import Method
from edgecc.learn.methods.contexts import goodness_of_biases
from edgecc.learn.methods.contextual import Contextual
from edgecc.learn.methods.optimisers import Adam, Sgd
from edgecc.learn.methods.scored import label_similarity
from edgecc.learn.methods.spela import Spela, SpelaChannels, surjection
from edgecc.learn.methods.supervised import Supervised
from edgecc.learn.network import Network
from edgecc.learn.symmetric_vectors import symmetric_vectors

Digits = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_example_in_the_documentation_runs() -> None:
    text = (Path(__file__).parents[2] / "docs" / "learning.md").read_text()
    example = text.split("```python\n")[1].split("```")[0]
    exec(compile(example, "docs/learning.md", "exec"), {})


# --- contexts ---


@pytest.mark.parametrize("classes", [1, 2, 7, 60])
@pytest.mark.parametrize("shape", [(5, 3, 4, 6), (2, 4, 1, 9), (3, 5, 1, 1)], ids=str)
def test_all_biases_in_one_pass_are_as_many_separate_passes(
    classes: int, shape: tuple[int, ...]
) -> None:
    draws = generator()
    n = torch.randn(shape, generator=draws, dtype=torch.float64)
    beta = torch.randn(classes, shape[1], generator=draws, dtype=torch.float64)
    expected = [(n + b[:, None, None]).relu().square().mean((1, 2, 3)) for b in beta]
    torch.testing.assert_close(goodness_of_biases(n, beta), torch.stack(expected, 1))


def test_a_value_that_is_its_threshold_and_equal_biases_count_right() -> None:
    n = torch.tensor([[[[-0.5, 0.0, 0.5, 2.0]]]])
    beta = torch.tensor([[0.5], [0.5], [-2.0], [-3.0], [0.0]])
    expected = torch.tensor([[(0.25 + 1 + 6.25) / 4, (0.25 + 1 + 6.25) / 4, 0, 0, 4.25 / 4]])
    torch.testing.assert_close(goodness_of_biases(n, beta), expected)


def test_random_negatives_need_a_generator() -> None:
    block = PoolConv(1, 1, 4, 3)
    with pytest.raises(ValueError, match="pass one"):
        Contextual(block, classes=3, size=(4, 4), wrong="random")


def test_samples_of_a_class_are_alike_and_all_others_equally_unlike() -> None:
    y = torch.tensor([0, 1, 1, 4])
    one_hot = F.one_hot(y, 5).double()
    centred = one_hot - 1 / 5
    expected = F.cosine_similarity(centred[:, None], centred[None], dim=2)
    torch.testing.assert_close(label_similarity(y, 5, like=expected), expected)


# --- SPELA ---


@pytest.mark.parametrize(("classes", "groups"), [(2, 2), (10, 2), (10, 9), (10, 10), (5, 1)])
def test_a_surjection_leaves_no_group_empty(classes: int, groups: int) -> None:
    draws = generator()
    for _ in range(20):
        group = surjection(classes, groups, generator=draws)
        assert group.shape == (classes,)
        assert group.unique().tolist() == list(range(groups))


def test_more_groups_than_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="3 classes cannot fill 4 groups"):
        surjection(3, 4, generator=generator())


def test_each_channel_draws_two_to_nine_groups_with_a_simplex_of_its_own() -> None:
    block = PoolConv(1, 1, 64, 3, generator=generator())
    method = SpelaChannels(block, classes=20, size=(4, 4), generator=generator(), dim=30)
    counts = method.group.amax(1) + 1
    assert counts.unique().tolist() == list(range(2, 10))
    for vectors, n in zip(method.vectors, counts.tolist(), strict=True):
        expected = torch.full((n, n), -1 / (n - 1)).fill_diagonal_(1)
        torch.testing.assert_close(vectors[:n] @ vectors[:n].T, expected, rtol=0, atol=1e-6)


def test_an_output_of_length_zero_is_left_alone() -> None:
    block = PoolConv(1, 1, 4, 3, generator=generator())
    vectors = symmetric_vectors(3, 64, generator=generator())
    scores, gradients = Spela(block, vectors=vectors).gradients(
        torch.zeros(2, 1, 4, 4), torch.tensor([0, 1]))
    assert scores.count_nonzero() == 0
    assert all(gradient.count_nonzero() == 0 for gradient in gradients)


# --- optimisers ---


@pytest.mark.parametrize(("ours", "theirs"), [
    (Adam, lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.9, 0.99))),
    (Sgd, lambda p: torch.optim.SGD(p, lr=0.1)),
    (lambda p: Sgd(p, momentum=0.9), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)),
], ids=["Adam", "SGD", "momentum"])
def test_an_optimiser_steps_as_torch_does(ours: Any, theirs: Any) -> None:
    draws = generator()
    mine = torch.randn(3, 4, generator=draws, dtype=torch.float64)
    other = mine.clone().requires_grad_()
    optimiser, expected = ours([mine]), theirs([other])
    for _ in range(5):
        gradient = torch.randn(3, 4, generator=draws, dtype=torch.float64)
        other.grad = gradient.clone()
        expected.step()
        optimiser.step([gradient], 0.1)
    torch.testing.assert_close(mine, other.detach())


# --- real digits ---


def two_blocks(method: str, seed: int = 0) -> Network:
    """16 and 32 channels, the second a CoConv, on 8x8."""
    draws = generator(seed)
    methods: list[Method] = []
    size = (8, 8)
    for block in (PoolConv(1, 1, 16, 3, generator=draws), CoConv(16, 2, 32, 3, generator=draws)):
        if method == "spela":
            dim = torch.Size(block.output_shape(size)).numel()
            methods.append(
                Spela(block, vectors=symmetric_vectors(10, dim, generator=draws), loss="squared"))
        else:
            methods.append(ON_DIGITS[method](block, classes=10, size=size, generator=draws))
        size = block.output_shape(size)[1:]
    return Network(methods)


def options(kind: Any, **chosen: Any) -> Any:
    return lambda block, **rest: kind(block, **rest, **chosen)


ON_DIGITS: dict[str, Any] = {
    "linear": options(Contextual), "random": options(Contextual, wrong="random"),
    "similar": options(Contextual, similarity=10.0), "bias": options(Contextual, mode="bias"),
    "scale": options(Contextual, mode="scale"), "supervised": options(Supervised),
    "channels": options(SpelaChannels), "spela": None,
}


def halves(digits: Digits) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, y = torch.from_numpy(digits[0] / np.float32(255)), torch.from_numpy(digits[1])
    return x[:1200], y[:1200], x[1200:], y[1200:]


@pytest.mark.parametrize("method", ON_DIGITS)
def test_a_method_learns_digits_and_from_shuffled_labels_only_chance(
    digits: Digits, method: str
) -> None:
    x, y, x_test, y_test = halves(digits)
    shuffled = y[torch.randperm(len(y), generator=generator(2))]
    for labels, least, most in ((y, 0.4, 1.0), (shuffled, 0.0, 0.25)):
        network, draws = two_blocks(method), generator(1)
        for step in range(120):
            chosen = torch.randint(len(x), (50,), generator=draws)
            network.sweep(x[chosen], labels[chosen], rate=1e-2 * (1 - step / 120))
        network.calibrate(x[:500])
        accuracy = float((network.predict(x_test) == y_test).float().mean())
        assert least < accuracy < most


def test_the_published_recipe_beats_chance_without_seeing_a_label(digits: Digits) -> None:
    x, y, x_test, y_test = halves(digits)
    draws = generator()
    network = CompatNetwork(1, classes=10, size=(8, 8), generator=draws, channels=(8, 16),
                            pools=(1, 2))
    for block in (0, 1):
        for _ in range(500):
            chosen = torch.randint(len(x), (64,), generator=draws)
            scores = network.step(x[chosen], y[chosen], block=block, rate=5e-3)
        assert scores.shape == ((64, 10), (128, 2))[block]
    assert (network.predict(x_test) == y_test).float().mean() > 0.25
