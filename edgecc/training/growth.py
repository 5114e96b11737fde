"""Growing a trunk: train its blocks, freeze and compile them bottom up, evaluate how many to keep.

A growth starts from the stem and sees every sample labelled up to its cursor. Each mini-batch
updates every block on the output of the block before, and no gradient crosses a block's boundary.
A growth is a function of the log, the recipe and the plan: killed anywhere, it resumes to the same
bytes. Its random generators are seeded by (recipe's seed, growth, step), so it has no other state.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from edgecc.checkpoint import generation
from edgecc.checkpoint.generation import Generation
from edgecc.host import files
from edgecc.learn import backends, geometry
from edgecc.learn.blocks import Block
from edgecc.learn.methods.base import Method
from edgecc.learn.network import Network
from edgecc.learn.norms import EPS, Moments
from edgecc.learn.readout import Readout
from edgecc.plan.plan import BlockSize, Plan
from edgecc.protocol.sample import Input
from edgecc.store.growth_log import Growth
from edgecc.training.dataset import Draws, Maps, Rows
from edgecc.training.evaluation import Answers, Evaluator
from edgecc.training.label_filter import plausible
from edgecc.training.recipe import Recipe, methods_on
from edgecc.trunk.compile import Layer
from edgecc.trunk.trunk import Trunk

CALIBRATION_ROWS = 1000
_SNAPSHOT_EVERY = 10.0  # seconds; changes what a kill costs, never the result


class Grower:
    """Runs one growth in `folder`, and reports its progress."""

    def __init__(
        self, growth: Growth, parent: Generation, rows: Rows, *, plan: Plan, folder: Path,
        report: Callable[[dict[str, Any]], None], sums: Readout | None = None,
        network: Callable[[list[Method]], Network] = Network,
    ) -> None:
        """sums: where rows were evicted, what the parent's readout knows at the growth's cursor."""
        self.growth, self.parent, self.rows = growth, parent, rows
        self.plan, self.folder, self.report = plan, folder, report
        self.recipe, self._network = Recipe.of(growth.recipe), network
        self.sums = sums
        self.evaluator = Evaluator(rows, sums, self._progress)

    def run(self) -> Iterator[dict[str, Any]]:
        """A verdict for each number of blocks, from one up; at most one is accepted."""
        if len(self.rows.classes) < 2:
            return
        path = self.folder / "verdicts.json"
        if not path.exists():
            files.replace(path, json.dumps(self._verdicts()).encode())
        yield from json.loads(path.read_text())

    def grown(self) -> Trunk:
        """All planned blocks, trained and frozen on the stem."""
        trunk = self.calibrated_stem()
        methods = self._trained(trunk).methods
        for number, (method, block) in enumerate(zip(methods, self.plan.blocks, strict=True), 1):
            self._progress("freezing", block=number, blocks=len(methods))
            trunk = self._frozen(trunk, method.block, block)
        return trunk

    def _trained(self, stem: Trunk) -> Network:
        maps, training = Maps(stem, self.rows), plausible(stem, self.rows, self._generator(3, 0))
        network = self._network(list(methods_on(
            maps, self.plan, self.recipe, len(self.rows.classes), self._generator(2, 0))))
        steps = int(self.recipe.epochs * len(training) / self.plan.batch)
        first = self._resume(network)
        draws = Draws(training, self.plan.batch, (self.recipe.seed, self.growth.number))
        saved, right, xp = time.monotonic(), 0.5, backends.named(self.plan.backend).namespace
        for step in range(first, steps):
            chosen = draws.batch(step)
            y = xp.asarray(self.rows.targets[chosen])
            change = self.recipe.change(self._generator(1, step))
            values = network.sweep(  # nobody else holds the batch, so it is freed on the way
                xp.asarray(maps.batch(chosen, change)), y, rate=self.recipe.rate_at(step, steps)
            )[-1]
            right += 0.02 * (int((values.argmax(1) == y).sum()) / len(y) - right)
            if step % 50 == 0:
                self._progress(
                    "training", blocks=len(self.plan.blocks), step=step, steps=steps,
                    accuracy=right)
            if time.monotonic() - saved > _SNAPSHOT_EVERY:
                self._snapshot(network, step + 1)
                saved = time.monotonic()
        self._snapshot(network, steps)
        return network

    def _frozen(self, trunk: Trunk, block: Block, planned: BlockSize) -> Trunk:
        """`block` on `trunk`, the norm's statistics over calibration rows folded into it."""
        maps = Maps(trunk, self.rows)
        sums, largest = Moments(), np.full(block.c_out, -np.inf, np.float32)
        for u in maps.batches(self._calibration_rows(len(trunk.layers))):
            z = block.affine(backends.namespace(block.weights[0]).asarray(u))
            sums.add(z)
            largest = np.maximum(largest, np.asarray(z).max((0, 2, 3)))
        moments = sums.mean_and_variance()
        mean, variance = (np.asarray(moment) for moment in moments)
        weights, bias = block.folded(*moments)
        high = float(((largest - mean) / np.sqrt(variance + EPS)).max())
        _, *out = block.output_shape(maps.size)
        layer = Layer(
            convs=tuple(np.asarray(weight).reshape(
                len(weight), -1, *maps.size if weight.ndim == 2 else weight.shape[2:])
                for weight in weights),
            bias=np.asarray(bias), pool=block.pool,
            grid=geometry.fitted(planned.grid, (out[0], out[1])),
            padding="same" if planned.kernel else "valid", root=False)
        return replace(
            trunk, layers=(*trunk.layers, layer), methods=(*trunk.methods, self.recipe.method),
            ranges=None if trunk.ranges is None else (*trunk.ranges, (0.0, high)))

    def calibrated_stem(self) -> Trunk:
        """The parent's stem with int8 ranges measured on calibration rows.

        Where rows were evicted the stem stays as it is, to the bit, so that its sums stay true.
        """
        parent = self.parent.trunk
        if self.sums is not None:
            return parent.first(0)
        stem = replace(parent, layers=parent.layers[:1], ranges=None, methods=("stem",))
        enter, run = stem.entering(), stem.runner("map")
        low = high = largest = 0.0
        for position in self._calibration_rows(0):
            sample = self.rows.read(int(position))
            x = enter(sample)
            low, high = min(low, float(x.min())), max(high, float(x.max()))
            largest = max(largest, float(run(sample).max()))
        return replace(stem, ranges=((low, high), (0.0, largest)))

    def _calibration_rows(self, number: int) -> NDArray[np.int64]:
        return self._generator(0, number).permutation(self.rows.training)[:CALIBRATION_ROWS]

    def _generator(self, use: int, number: int) -> np.random.Generator:
        return np.random.default_rng((self.recipe.seed, self.growth.number, use, number))

    def _verdicts(self) -> list[dict[str, Any]]:
        """Evaluate the stem with one block, two, and so on; write the best where it beats what
        serves."""
        evaluator = self.evaluator
        serving = evaluator.serving(self.parent.trunk)
        trunk, evaluation, agreement = evaluator.in_int8(self.grown())
        depths = [trunk.first(blocks) for blocks in range(len(trunk.layers))]
        answers = [evaluation.first(part.dim).answers for part in depths]
        best = max(range(len(depths)), key=lambda depth: (evaluator.worth(answers[depth]), -depth))
        better = evaluator.beats(answers[best], serving)
        verdicts: list[dict[str, Any]] = [
            {
                "growth": self.growth.number, "block": depth, "cursor": self.growth.cursor,
                "accepted": depth == best and better,
                "helps": depth <= best, "held_out": answers[depth].accuracy,
                "held_out_without": answers[depth - 1].accuracy,
                "held_out_serving": serving.accuracy,
                "held_rows": len(evaluation.labels), "int8": trunk.ranges is not None,
                "int8_agreement": agreement, **evaluator.gain(answers[depth], serving),
            }
            for depth in range(1, len(depths))
        ]
        if best and better:
            readout = evaluation.first(depths[best].dim).readout
            figures = evaluator.by_group(depths[best], readout, answers[best].alpha)
            verdicts[best - 1] |= self._write(depths[best], readout, answers[best], figures)
            return [verdict | figures for verdict in verdicts]
        del evaluation  # before that of what serves: there is no memory for both
        kept = self._kept(serving)
        return [verdict | kept for verdict in verdicts]

    def _kept(self, serving: Answers) -> dict[str, Any]:
        """What goes on serving, and how it does where whole groups are held out."""
        figures = self.evaluator.by_group(self.parent.trunk, None, serving.alpha)
        return {"serving": self.parent.manifest.digest, **figures}

    def _write(
        self, candidate: Trunk, readout: Readout, answers: Answers, figures: dict[str, float]
    ) -> dict[str, Any]:
        model = candidate.compile()
        about = self.parent.manifest
        manifest = generation.base_manifest(
            about.node, Input(about.node_input["kind"], tuple(about.node_input["shape"])),
            parent=about.digest, cursor=self.growth.cursor, growth=self.growth.number,
            alpha=answers.alpha, temperature=answers.temperature, recipe=self.growth.recipe,
            plan=self.plan.describe(), metrics={"held_out": answers.accuracy, **figures},
            others=[] if self.sums is None else about.others)
        folder = self.folder / "candidate"
        written = generation.write(
            folder, manifest=manifest, trunk=candidate, readout=readout, model=model)
        return {"candidate": str(folder), "digest": written.digest, "model_bytes": len(model)}

    def _resume(self, network: Network) -> int:
        """The step to go on from; `network` as it was there."""
        path = self.folder / "training.safetensors"
        if not path.exists():
            return 0
        state = load_file(path)
        network.restore(state)
        return int(state["next_step"])

    def _snapshot(self, network: Network, step: int) -> None:
        state = network.state() | {"next_step": np.array(step)}
        data = save({name: np.asarray(array, order="C") for name, array in state.items()})
        files.replace(self.folder / "training.safetensors", data)

    def _progress(self, phase: str, **rest: Any) -> None:
        self.report({"phase": phase, "growth": self.growth.number, **rest})
