"""`edgecc bench accuracy`: many passes over everything at once; every method beside its controls,
backpropagation on the same network, and what was published.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from edgecc.bench import figures
from edgecc.bench.figures import Figures
from edgecc.bench.learning.many_passes import compat, offline, spela_dense, untrained
from edgecc.bench.learning.result_cache import Call, Results
from edgecc.training.recipe import METHODS

PUBLISHED = {  # accuracy on Fashion-MNIST in the papers named
    "CFSE (Papachristodoulou et al. 2024)": 0.9231, "DeeperForward (Sun et al. 2025)": 0.9313,
    "ASGE": 0.9341, "CAW-Conv": 0.9455, "SPELA, 784-1000-34": 0.8977,
    "local error signals, VGG8b (Nøkland & Eidnes 2019)": 0.9535,
}
_DATA = {"digits": "narrow", "fashion": "wide"}  # and the network


@dataclass(frozen=True)
class Scale:
    """How large the bench is; `quick` is a smoke test and its figures mean nothing."""

    limit: int | None = None
    epochs: float = 20.0  # of the method that is claimed, and of backpropagation
    compared: int = 20_000  # samples on which every method stands beside the others
    few: float = 5.0  # epochs there
    published: float = 10.0  # of the published contextual recipe, a block
    spela: float = 10.0  # of SPELA's dense network
    methods: tuple[str, ...] = (*METHODS, "backpropagation")


QUICK = Scale(
    limit=600, epochs=1.0, compared=400, few=1.0, published=0.2, spela=1.0,
    methods=("contextual", "backpropagation"))


def run(*, quick: bool, folder: Path, json_path: Path | None, out: Path) -> None:
    """Measure what is missing, then print the tables and write the figures."""
    results = Results(folder)
    summary = _summary(results.get(wanted(QUICK if quick else Scale())))
    summary["revision"] = results.revision
    for line in table(summary):
        click.echo(line)
    figures.save("accuracy", summary, out=out, json_path=json_path)


def wanted(scale: Scale) -> dict[str, list[Call]]:
    """Calls by data set and what they measure; the longest and most important first."""
    return {f"{name} {what}": calls for name in ("fashion", "digits")
            for what, calls in _of(name, scale).items()}


def _of(name: str, scale: Scale) -> dict[str, list[Call]]:
    passes = 1 if name == "fashion" else 10  # digits is so much smaller
    alone = {"name": name, "limit": scale.limit, "seed": 0}
    network = alone | {"network": _DATA[name]}
    small = network | {"limit": scale.compared}
    most, few = {"epochs": passes * scale.epochs}, {"epochs": passes * scale.few}
    return {
        "ours": [Call(offline, network | most)],
        "backpropagation": [Call(offline, network | most | {"method": "backpropagation"})],
        "control": [Call(untrained, network)],
        "spela": [Call(spela_dense, alone | {"epochs": scale.spela})],
        "compat": [Call(compat, alone | {"limit": scale.compared, "epochs": scale.published})],
        "methods": [Call(offline, small | few | {"method": method}) for method in scale.methods],
        "small control": [Call(untrained, small)],
        "shuffled": [Call(offline, small | few | {"shuffled": True})],
    }


def _summary(results: dict[str, list[Figures]]) -> dict[str, Any]:
    ours, backprop = results["fashion ours"][0], results["fashion backpropagation"][0]
    return {
        "offline_acc": ours["accuracy"],
        "backprop_gap": max(backprop["accuracy"], backprop["head"]) - ours["accuracy"],
        "spela_acc": results["fashion spela"][0]["accuracy"],
        "compat_acc": results["fashion compat"][0]["accuracy"],
        "results": results,
    }


# --- the tables ---


def table(summary: dict[str, Any]) -> Iterator[str]:
    """Lines for digits and Fashion-MNIST, then what was published."""
    for name in _DATA:
        yield from _lines(name, {
            what.removeprefix(f"{name} "): one for what, one in summary["results"].items()
            if what.startswith(name)})
    for title, accuracy in PUBLISHED.items():
        yield f"{'published: ' + title:62}  {accuracy:.4f}"
    yield f"offline_acc {summary['offline_acc']:.4f}  backprop_gap {summary['backprop_gap']:.4f}"


def _lines(name: str, of: dict[str, list[Figures]]) -> Iterator[str]:
    yield f"{name:48}  readout      head   CPU s   state (MB)"
    yield _line("contextual, many passes", of["ours"])
    yield _line("backpropagation, many passes", of["backpropagation"])
    yield _control("control: blocks never trained, best of 3", of["control"])
    yield f"{'SPELA, 1000-34 on the pixels':48}  {of['spela'][0]['accuracy']:7.4f}"
    yield "few passes, at most 20,000 samples"
    for one in of["methods"]:
        yield _line(f"  {one['method']}", [one])
    yield _control("  control: blocks never trained, best of 3", of["small control"])
    yield _line("  labels shuffled", of["shuffled"])
    yield f"{'  published contextual recipe, no label seen':48}  {of['compat'][0]['accuracy']:7.4f}"


def _line(title: str, results: Iterable[Figures]) -> str:
    accuracy, head, seconds, state = np.mean([
        [one["accuracy"], one["head"], one["seconds"], sum(one["state"].values()) / 1e6]
        for one in results], axis=0)
    return f"{title:48}  {accuracy:7.4f}  {head:8.4f}  {seconds:6.0f}  {state:8.2f}"


def _control(title: str, results: Iterable[Figures]) -> str:
    return f"{title:48}  {max(one for result in results for one in result['accuracies']):7.4f}"
