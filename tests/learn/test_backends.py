"""The two kinds of arrays: the same operations, the same growth, and numpy's without torch."""

import inspect
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.datasets import Digits
from support.learner_jobs import Log, heard, labelled, supervisor
from support.patience import taken

from edgecc.bench.learning.simulated_node import Device
from edgecc.bench.streams import split
from edgecc.learn import backends
from edgecc.learn.backends import numpy_ops, torch_ops
from edgecc.plan.plan import BlockSize, Plan
from edgecc.protocol.sample import Input
from edgecc.training.recipe import Recipe

SMALL = Plan(8, 3, (BlockSize(16, 3, 1, 2), BlockSize(32, 0, 1, 1)), 32, 64, {})


def test_both_kinds_have_every_operation_with_the_same_arguments() -> None:
    ours, theirs = (
        {name: list(inspect.signature(operation).parameters)
         for name, operation in inspect.getmembers(kind, inspect.isfunction)
         if operation.__module__ == kind.__name__ and not name.startswith("_")}
        for kind in (numpy_ops, torch_ops))
    assert len(ours) > 15
    assert ours == theirs


def test_the_kind_shows_by_the_array_and_by_the_generator() -> None:
    for backend, ops in (("numpy", numpy_ops), ("torch", torch_ops)):
        generator = backends.named(backend).generator(0)
        for one in (generator, ops.normal((2, 3), generator, None)):
            assert backends.of(one) is ops
    with pytest.raises(ValueError, match="'jax' is unknown: torch or numpy"):
        backends.named("jax")  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(6, 8), (7, 5), (1, 9)], ids=str)
@pytest.mark.parametrize("dilation", [1, 2])
def test_a_convolution_is_the_same_whatever_the_tile(
    size: tuple[int, int], dilation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = np.random.default_rng(0)
    kernel = (min(3, size[0]), 3)
    rest: dict[str, Any] = {
        "padding": (dilation * (kernel[0] // 2), dilation), "dilation": dilation}
    u, weight = draw.normal(size=(5, 4, *size)), draw.normal(size=(6, 4, *kernel))
    dz = draw.normal(size=(5, 6, *size))
    expected = [
        torch_ops.conv(torch.tensor(u), torch.tensor(weight), **rest),
        torch_ops.conv_gradient(*map(torch.tensor, (u, weight, dz)), **rest)]
    for tile in (1, 20_000, 2**20):
        monkeypatch.setattr(numpy_ops, "_TILE", tile)
        actual = [numpy_ops.conv(u, weight, **rest), numpy_ops.conv_gradient(u, weight, dz, **rest)]
        for one, wanted in zip(actual, expected, strict=True):
            np.testing.assert_allclose(one, wanted, rtol=1e-10, atol=1e-12)


def test_a_growth_on_numpy_does_as_well_as_on_torch() -> None:
    """Means over three seeds, which differ by 0.7 points among themselves."""
    reached: dict[str, list[float]] = {"torch": [], "numpy": []}
    for backend, accuracies in reached.items():
        for seed in range(3):
            data = split("digits", seed=seed, limit=500)
            plan = replace(SMALL, backend=backend)
            device = Device(Input("image", (1, 8, 8)), plan, Recipe(seed=seed), first=10**9)
            for x, target in zip(data.images, data.targets, strict=True):
                device.learn(x, int(target))
            before = device.accuracy(data)
            device.grow(replace(device.recipe, epochs=15))
            assert device.accuracy(data) >= before
            accuracies.append(device.accuracy(data))
    assert abs(np.mean(reached["numpy"]) - np.mean(reached["torch"])) < 0.006
    assert min(reached["numpy"]) > 0.95


# --- a process of its own ---


@pytest.fixture
def log(tmp_path: Path, digits: Digits) -> Iterator[Log]:
    images, labels = digits
    made = labelled(tmp_path, (images[:300], labels[:300]), replace(SMALL, backend="numpy"))
    yield made
    made.store.close()


def test_a_learner_on_numpy_never_maps_torch_and_a_killed_one_ends_with_the_same_generation(
    log: Log,
) -> None:
    learner, verdicts = supervisor(), []
    for name in ("calm", "killed"):
        learner.give(log.order(name, epochs=10.0))
        heard(learner, "train")
        if name == "killed":
            assert learner.pid is not None
            os.kill(learner.pid, signal.SIGKILL)
            while taken(learner.messages) is not None:
                pass
            assert learner.ended() == "killed"
            learner.give(log.order(name, epochs=10.0))
        verdict = heard(learner, "verdict")
        assert "torch" not in Path(f"/proc/{learner.pid}/maps").read_text()
        verdicts.append(verdict | {"candidate": ""})
        heard(learner, "done")
        learner.done()
    learner.stop()
    assert verdicts[0] == verdicts[1]
