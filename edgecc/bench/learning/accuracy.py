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
from edgecc.bench.learning.many_passes import compat, offline, spela_dense, untrained
from edgecc.bench.learning.result_cache import Cell, Cells, Found
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
    cells = Cells(folder)
    found = _summary(cells.get(wanted(QUICK if quick else Scale())))
    found["revision"] = cells.revision
    for line in table(found):
        click.echo(line)
    figures.write(out / "accuracy.json", "accuracy", found)
    if json_path:
        figures.write(json_path, "accuracy", found)


def wanted(scale: Scale) -> dict[str, list[Cell]]:
    """Cells by data and what they are; the longest and most important first."""
    return {f"{name} {what}": cells for name in ("fashion", "digits")
            for what, cells in _of(name, scale).items()}


def _of(name: str, scale: Scale) -> dict[str, list[Cell]]:
    passes = 1 if name == "fashion" else 10  # over a set that is so much smaller
    alone = {"name": name, "limit": scale.limit, "seed": 0}
    network = alone | {"network": _DATA[name]}
    small = network | {"limit": scale.compared}
    most, few = {"epochs": passes * scale.epochs}, {"epochs": passes * scale.few}
    return {
        "ours": [Cell(offline, network | most)],
        "backpropagation": [Cell(offline, network | most | {"method": "backpropagation"})],
        "control": [Cell(untrained, network)],
        "spela": [Cell(spela_dense, alone | {"epochs": scale.spela})],
        "compat": [Cell(compat, alone | {"limit": scale.compared, "epochs": scale.published})],
        "methods": [Cell(offline, small | few | {"method": method}) for method in scale.methods],
        "small control": [Cell(untrained, small)],
        "shuffled": [Cell(offline, small | few | {"shuffled": True})],
    }


def _summary(found: dict[str, list[Found]]) -> dict[str, Any]:
    ours, rival = found["fashion ours"][0], found["fashion backpropagation"][0]
    return {
        "offline_acc": ours["accuracy"],
        "backprop_gap": max(rival["accuracy"], rival["head"]) - ours["accuracy"],
        "spela_acc": found["fashion spela"][0]["accuracy"],
        "compat_acc": found["fashion compat"][0]["accuracy"],
        "cells": found,
    }


# --- the tables ---


def table(found: dict[str, Any]) -> Iterator[str]:
    """Lines for digits and Fashion-MNIST, then what was published."""
    for name in _DATA:
        yield from _lines(name, {
            what.removeprefix(f"{name} "): one for what, one in found["cells"].items()
            if what.startswith(name)})
    for title, accuracy in PUBLISHED.items():
        yield f"{'published: ' + title:62}  {accuracy:.4f}"
    yield f"offline_acc {found['offline_acc']:.4f}  backprop_gap {found['backprop_gap']:.4f}"


def _lines(name: str, of: dict[str, list[Found]]) -> Iterator[str]:
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


def _line(title: str, cells: Iterable[Found]) -> str:
    accuracy, head, seconds, state = np.mean([
        [one["accuracy"], one["head"], one["seconds"], sum(one["state"].values()) / 1e6]
        for one in cells], axis=0)
    return f"{title:48}  {accuracy:7.4f}  {head:8.4f}  {seconds:6.0f}  {state:8.2f}"


def _control(title: str, cells: Iterable[Found]) -> str:
    return f"{title:48}  {max(one for cell in cells for one in cell['accuracies']):7.4f}"
