"""Growing a trunk: train a block, freeze it, compile it, judge it; then the next one.

A growth starts from the stem and sees every sample labelled up to its cursor. It is a function of
the log, the recipe, the plan and the seed: killed anywhere, it resumes to the same bytes. All its
draws come from a generator seeded by (seed, growth, block, epoch), so there is no other state.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save

from edgecc import generation
from edgecc.compile import Layer
from edgecc.generation import Generation
from edgecc.interpreter import Interpreter
from edgecc.judging import Judged, int8_agreement, judge
from edgecc.learn.blocks import EPS, PoolConv
from edgecc.learn.methods.contextual import Contextual
from edgecc.planner import Block, Plan
from edgecc.reader import Growth
from edgecc.rows import Draws, Maps, Rows
from edgecc.trunk import Trunk

RATE = 5e-3  # Adam's, falling to zero along a half cosine
CALIBRATION_ROWS = 1000
_SNAPSHOT_EVERY = 10.0  # seconds; changes what a kill costs, never the result
_INT8_AGREEMENT = 0.95  # share of held-out samples; below it the trunk stays float32

Report = Callable[[dict[str, Any]], None]


class Grower:
    """Runs one growth in `folder`, reporting progress; yields a verdict per block."""

    def __init__(
        self, growth: Growth, parent: Generation, rows: Rows, *, plan: Plan, seed: int,
        folder: Path, report: Report,
    ) -> None:
        self.growth, self.parent, self.rows = growth, parent, rows
        self.plan, self.seed, self.folder, self.report = plan, seed, folder, report
        self._serving = parent.manifest.digest
        self._serving_accuracy = 0.0

    def run(self) -> Iterator[dict[str, Any]]:
        """Blocks bottom up, until one does not help."""
        if len(self.rows.classes) < 2:
            return
        trunk = self.calibrated_stem()
        self._serving_accuracy = self.judge(self.parent.trunk).accuracy
        for number, block in enumerate(self.plan.blocks, start=1):
            candidate = self.frozen(trunk, block, number)
            verdict = self._verdict(trunk, candidate, number)
            yield verdict
            if not verdict["helps"]:
                return
            trunk = candidate if verdict["int8"] else replace(candidate, ranges=None)

    # --- one block ---

    def frozen(self, trunk: Trunk, block: Block, number: int) -> Trunk:
        """`trunk` with block `number` trained and frozen on top, or read back if that was done."""
        path = self.folder / f"block{number}.safetensors"
        if not path.exists():
            _save(path, self._train(trunk, block, number))
        done = load_file(path)
        layer = Layer(
            convs=(done["weight"].numpy(),), bias=done["bias"].numpy(),
            pool=tuple(done["pool"].tolist()), grid=tuple(done["grid"].tolist()),
        )
        return replace(
            trunk, layers=(*trunk.layers, layer), methods=(*trunk.methods, "contextual"),
            ranges=None if trunk.ranges is None else (*trunk.ranges, (0.0, float(done["high"]))),
        )

    def _train(self, trunk: Trunk, block: Block, number: int) -> dict[str, torch.Tensor]:
        maps = Maps(trunk, self.rows)
        conv = self._new_block(maps, block, number)
        method = Contextual(conv, classes=len(self.rows.classes), size=maps.size)
        steps = self._steps()
        first = self._resume(method, number)
        draws = Draws(self.rows.training, self.plan.batch, (self.seed, self.growth.number, number))
        saved, right = time.monotonic(), 0.5
        for step in range(first, steps):
            chosen = draws.batch(step)
            y = torch.from_numpy(self.rows.targets[chosen])
            rate = RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
            values = method.step(maps.batch(chosen), y, rate=rate)
            right += 0.02 * (float((values.argmax(1) == y).float().mean()) - right)
            if step % 50 == 0:
                self._progress("training", number, step=step, steps=steps, accuracy=right)
            if time.monotonic() - saved > _SNAPSHOT_EVERY:
                self._snapshot(method, number, step + 1)
                saved = time.monotonic()
        return self._freeze(conv, maps, block, number)

    def _steps(self) -> int:
        rows = len(self.rows.training)
        return int(self.growth.recipe["epochs"] * rows / self.plan.batch)

    def _new_block(self, maps: Maps, block: Block, number: int) -> PoolConv:
        entropy = np.random.SeedSequence((self.seed, self.growth.number, number))
        generator = torch.Generator().manual_seed(int(entropy.generate_state(1)[0]))
        kernel = tuple(min(block.kernel, side - 1 + side % 2) for side in maps.size)
        pool = tuple(min(block.pool, side) for side in maps.size)
        return PoolConv(
            maps.channels, block.channels, kernel=(kernel[0], kernel[1]), pool=(pool[0], pool[1]),
            generator=generator,
        )

    def _freeze(
        self, conv: PoolConv, maps: Maps, block: Block, number: int
    ) -> dict[str, torch.Tensor]:
        """Fold the norm's statistics over calibration rows into weight and bias."""
        channels, count = conv.weight.shape[0], 0
        mean, square = torch.zeros(2, channels, dtype=torch.float64)
        largest = torch.full((channels,), -torch.inf)
        for u in maps.batches(self._calibration_rows(number)):
            z = conv.convolve(u).transpose(0, 1).flatten(1)
            mean += z.sum(1, dtype=torch.float64)
            square += z.double().square().sum(1)
            largest, count = largest.maximum(z.amax(1)), count + z.shape[1]
        mean, variance = mean / count, square / count - (mean / count).square()
        weight, bias = conv.folded(mean.float(), variance.float())
        normalised = (largest - mean) * (variance + EPS).rsqrt()
        size = [side // m for side, m in zip(maps.size, conv.pool, strict=True)]
        return {
            "weight": weight, "bias": bias, "pool": torch.tensor(conv.pool),
            "grid": torch.tensor([min(side, block.grid) for side in size]),
            "high": normalised.max(),
        }

    def calibrated_stem(self) -> Trunk:
        """The parent's stem with int8 ranges measured on calibration rows."""
        parent = self.parent.trunk
        stem = replace(parent, layers=parent.layers[:1], ranges=None, methods=("stem",))
        run = Interpreter(stem.compile("map")).run
        low = high = largest = 0.0
        for position in self._calibration_rows(0):
            x = stem.scale(self.rows.sample(int(position)))
            low, high = min(low, float(x.min())), max(high, float(x.max()))
            largest = max(largest, float(run(x).max()))
        return replace(stem, ranges=((low, high), (0.0, largest)))

    def _calibration_rows(self, number: int) -> NDArray[np.int64]:
        generator = np.random.default_rng((self.seed, self.growth.number, number, 2**31))
        return generator.permutation(self.rows.training)[:CALIBRATION_ROWS]

    # --- judging ---

    def _verdict(self, trunk: Trunk, candidate: Trunk, number: int) -> dict[str, Any]:
        path = self.folder / f"verdict{number}.json"
        if path.exists():
            verdict: dict[str, Any] = json.loads(path.read_text())
        else:
            verdict = self._judgement(trunk, candidate, number)
            generation.replace_file(path, json.dumps(verdict).encode())
        if verdict["accepted"]:
            self._serving = verdict["digest"]
            self._serving_accuracy = verdict["held_out"]
        return verdict

    def _judgement(self, trunk: Trunk, candidate: Trunk, number: int) -> dict[str, Any]:
        """Against its own prefix (does the block help?) and what is serving (is it better?)."""
        judged = self.judge(candidate)
        agreement = 1.0
        if candidate.ranges is not None:
            agreement = int8_agreement(candidate, self.rows, judged)
        if agreement < _INT8_AGREEMENT:
            candidate = replace(candidate, ranges=None)
            judged = self.judge(candidate)
        prefix = judged.accuracy_of_first(trunk.dim)
        accepted = judged.accuracy > max(prefix, self._serving_accuracy)
        verdict: dict[str, Any] = {
            "growth": self.growth.number, "block": number, "cursor": self.growth.cursor,
            "accepted": accepted, "helps": judged.accuracy > prefix,
            "held_out": judged.accuracy, "held_out_without": prefix,
            "held_out_serving": self._serving_accuracy, "held_rows": len(judged.labels),
            "int8": candidate.ranges is not None,
            "int8_agreement": agreement,
        }
        if accepted:
            verdict |= self._write(candidate, judged, number)
        return verdict

    def judge(self, trunk: Trunk) -> Judged:
        number, rows = len(trunk.layers) - 1, len(self.rows.ids)
        return judge(
            trunk, self.rows, lambda row: self._progress("judging", number, step=row, steps=rows)
        )

    def _write(self, candidate: Trunk, judged: Judged, number: int) -> dict[str, Any]:
        model = candidate.compile()
        manifest = generation.base_manifest(
            self.parent.manifest.node, self.rows.spec, parent=self._serving,
            cursor=self.growth.cursor, growth=self.growth.number, alpha=judged.alpha,
            temperature=judged.temperature, recipe=self.growth.recipe, plan=self.plan.describe(),
            metrics={"held_out": judged.accuracy},
        )
        folder = self.folder / f"candidate{number}"
        written = generation.write(
            folder, manifest=manifest, trunk=candidate, readout=judged.readout, model=model
        )
        return {"candidate": str(folder), "digest": written.digest, "model_bytes": len(model)}

    # --- surviving a kill ---

    def _resume(self, method: Contextual, number: int) -> int:
        """The step to go on from; `method` as it was there."""
        path = self.folder / f"training{number}.safetensors"
        if not path.exists():
            return 0
        state = load_file(path)
        method.restore(state)
        return int(state["next_step"])

    def _snapshot(self, method: Contextual, number: int, step: int) -> None:
        state = {name: tensor.contiguous() for name, tensor in method.state().items()}
        _save(self.folder / f"training{number}.safetensors",
              state | {"next_step": torch.tensor(step)})

    def _progress(self, phase: str, block: int, **rest: Any) -> None:
        self.report({"phase": phase, "growth": self.growth.number, "block": block, **rest})


def _save(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    generation.replace_file(path, save({name: t.contiguous() for name, t in tensors.items()}))
