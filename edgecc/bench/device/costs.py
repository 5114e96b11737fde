"""What daemon and learner take on this machine beside what grows with a plan, for the planner.

A real daemon on a broker of its own, then a real learner with each backend on that daemon's log,
each a fresh process: what the kernel counts of it, less what the plan says of its readout and maps.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click

from edgecc.bench import figures
from edgecc.bench.data import Data, load
from edgecc.bench.delivery.node import Node, running
from edgecc.bench.figures import Figures
from edgecc.checkpoint.keyring import Keys
from edgecc.config.state import State
from edgecc.errors import EdgeccError
from edgecc.host.memory import data_memory, peak_memory
from edgecc.learn.backends import Backend
from edgecc.plan import budget
from edgecc.plan.budget import planned
from edgecc.plan.costs import MIB, Costs, sized
from edgecc.plan.plan import BlockSize, Plan, readout_dim
from edgecc.protocol.sample import Input
from edgecc.training.orders import Order
from edgecc.training.recipe import Recipe
from edgecc.training.supervisor import FRUGAL

# Large enough that a growth takes more than a learner's start.
_BLOCKS = (BlockSize(32, 3, 2, 2), BlockSize(64, 3, 1, 3), BlockSize(256, 0, 1, 1))
_UNBOUNDED = 2**50  # bytes



@dataclass
class Taken:
    """Bytes a learner took at most: until a first step was done, in all, as RLIMIT_DATA counts."""

    start: int = 0
    peak: int = 0
    data: int = 0


def run(*, quick: bool, out: Path, json_path: Path | None, table: Path) -> None:
    """Measure, print, and leave the costs in `table`, where the planner finds them."""
    data, samples = load(), 200 if quick else 800
    shipped, work = Costs(), out / "costs"
    settings: Figures = {"budget": "512MiB", "first": 10**6, "shape": list(data.shape),
                       "mirror": "true" if data.name == "Fashion-MNIST" else "false"}
    with running(work, **settings) as node:
        daemon = _daemon(node, data, samples)
        spec, state = node.config.input, node.config.state
    plans = {backend: _plan(spec, backend) for backend in ("torch", "numpy")}
    taken = {name: _learner(plan, state, spec, samples) for name, plan in plans.items()}
    base = {name: taken[name].peak - _evaluating(plan, spec, 10, samples // 20)
            for name, plan in plans.items()}
    costs = replace(
        shipped, daemon=daemon, learner=base["torch"], learner_numpy=base["numpy"],
        learner_start=taken["torch"].start,
        unseen=max(0, *(one.data - one.peak for one in taken.values())))
    if not quick:
        budget.write(table, costs)
        click.echo(f"{table}: `edgecc start` and `edgecc plan` read it from now on")
    if json_path is not None:
        figures.write(json_path, "costs", asdict(costs))
    for name, size in asdict(costs).items():
        if size != asdict(shipped)[name]:
            click.echo(f"{name:16} {size / MIB:7.1f} MiB, "
                       f"shipped {asdict(shipped)[name] / MIB:.1f}")


def _daemon(node: Node, data: Data, samples: int) -> int:
    """Bytes without the readout of the stem, which alone serves here."""
    lines = b"".join(data.json_line(position) for position in range(samples))
    node.command("stream", "-", "--source", "train", input=lines)
    node.idle(labels=samples)
    plan, _ = planned(node.config)
    dim = readout_dim(replace(plan, blocks=()), node.config.input)
    return peak_memory(node.process.pid) - int((Costs().solve + 1) * 8 * (dim + 1) ** 2)


def _learner(plan: Plan, state: State, spec: Input, samples: int) -> Taken:
    """A growth by a learner of its own, on the log in `state`."""
    taken = Taken()
    with tempfile.TemporaryDirectory() as work:
        order = Order(
            growth=1, cursor=samples, recipe=asdict(Recipe(epochs=2.0)), threads=1,
            parent=str(state.generations / "000000"), plan=plan.describe(), folder=work,
            keys=[key.encode().hex() for key in Keys(state).trusted],
            log=str(state.log), input={"kind": spec.kind, "shape": spec.shape})
        learner = subprocess.Popen(
            [sys.executable, "-m", "edgecc.training.learner", str(_UNBOUNDED), "1",
             str(os.getpid())],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | FRUGAL)
        assert learner.stdin is not None
        assert learner.stdout is not None
        learner.stdin.write(json.dumps(asdict(order)).encode() + b"\n")
        learner.stdin.close()
        with _watched(learner.pid, taken):
            for line in learner.stdout:
                said = json.loads(line)
                if said.get("phase") == "training":
                    taken.start = taken.start or said["peak"]
                taken.peak = said["peak"]
    if learner.wait() != 0 or said["type"] != "done":
        raise EdgeccError(f"the learner ended with {learner.returncode} after {said}")
    return taken


@contextmanager
def _watched(pid: int, taken: Taken) -> Iterator[None]:
    """Looks at the data of a process as RLIMIT_DATA counts it, twenty times a second."""
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.05):
            taken.data = max(taken.data, data_memory(pid))

    looking = threading.Thread(target=look)
    looking.start()
    yield
    done.set()
    looking.join()


def _plan(spec: Input, backend: Backend) -> Plan:
    plan = Plan(16, 3, _BLOCKS, 64, 64, {}, backend=backend)
    return sized(plan, spec, max_payload=MIB, costs=Costs())


def _evaluating(plan: Plan, spec: Input, classes: int, held: int) -> int:
    """Bytes of an evaluation with so many classes and held-out samples: a learner's peak."""
    dim, costs = readout_dim(plan, spec), Costs()
    return int(costs.readouts_learner * 8 * (dim + 1) ** 2 + 4 * held * dim
               + costs.classes_learner * classes * 8 * (dim + 1))
