"""Blocks in order, each with its method. Outputs become inputs here and nowhere else, always as
arrays without a graph, so no gradient crosses a block boundary."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgecc.learn.backends import Array, without_graph
from edgecc.learn.methods.base import Method


class Network:
    """Trains one block at a time (`step`) or all of them at once (`sweep`); predicts at any."""

    def __init__(self, methods: Sequence[Method]) -> None:
        self.methods = list(methods)

    def step(self, x: Array, y: Array, *, block: int, rate: float) -> Array:
        """One local update of `block` on the calibrated, frozen ones below it; scores before it."""
        return self.methods[block].step(self.inputs(x, block), y, rate=rate)

    def sweep(self, x: Array, y: Array, *, rate: float) -> list[Array]:
        """One local update of every block, each on the output of the one below in this same pass;
        their scores before it."""
        scores = []
        for method in self.methods:
            before, x = method.advance(x, y, rate=rate)
            scores.append(before)
        return scores

    def calibrate(self, x: Array, *, first: int = 0, chunk: int = 100) -> None:
        """Measure batch norms on samples x, from block `first` upwards; lower ones are measured."""
        batches = [x[start : start + chunk] for start in range(0, len(x), chunk)]
        for number, method in enumerate(self.methods):
            if number >= first:
                method.calibrate(batches)
            batches = [method.block(u) for u in batches]

    def inputs(self, x: Array, block: int) -> Array:
        """The input of `block`: x through the frozen blocks below it."""
        for method in self.methods[:block]:
            x = method.block(x)
        return x

    def outputs(self, x: Array) -> Iterator[Array]:
        """Every block's output in turn, for a readout over all."""
        for method in self.methods:
            x = method.block(x)
            yield x

    @without_graph
    def scores(self, x: Array, *, block: int = -1) -> Array:
        """(B, K) at `block`; those above it do not run."""
        method, number = self.methods[block], range(len(self.methods))[block]
        return method.scores(method.block.frozen(self.inputs(x, number)))

    def predict(self, x: Array, *, block: int = -1) -> Array:
        """Classes (B,) at `block`."""
        return self.scores(x, block=block).argmax(1)

    def state(self) -> dict[str, Array]:
        return {f"{number}.{name}": tensor for number, method in enumerate(self.methods)
                for name, tensor in method.state().items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        for number, method in enumerate(self.methods):
            prefix = f"{number}."
            method.restore({name.removeprefix(prefix): tensor for name, tensor in state.items()
                            if name.startswith(prefix)})
