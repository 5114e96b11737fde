"""Plots of the benches, as PNG."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecc.bench.figures import Figures
from edgecc.config.schema import Config
from edgecc.store.reader import Reader

_WINDOW = 500  # labels in the moving accuracy


def demo(
    path: Path, config: Config, matrix: NDArray[np.float64], groups: Sequence[tuple[str, str]],
    events: Sequence[dict[str, Any]], per_pair: int,
) -> None:
    """Accuracy before learning, accuracy on test images after each pair, and block swaps."""
    figure, (above, below) = _subplots(2, 1, figsize=(9, 8), height_ratios=(3, 2))
    _curves(above, config, matrix, per_pair)
    _swaps(above, events)
    above.set(xlabel="labelled samples received, classes two at a time", ylabel="accuracy",
              ylim=(0, 1.05), title="One class-incremental pass over MQTT")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    _matrix(below, matrix, groups)
    _save(figure, path)


def continual(path: Path, figures: Figures) -> None:
    """R[i][j] of the first pair, and accuracy against all bytes used."""
    figure, (left, right) = _subplots(1, 2, figsize=(11, 4.5))
    matrix = np.array(figures["results"]["streams"][0]["matrix"])
    _matrix(left, matrix, [(f"experience {j + 1}",) for j in range(len(matrix))])
    for name, one in _with_bytes(figures["results"]):
        right.plot(sum(one["state"].values()) / 1e6, one["accuracy"], "o", label=name)
    right.axhline(figures["control_accuracy"], color="grey", ls=":", label="blocks never trained")
    right.set(xscale="log", xlabel="weights, readout and stored samples, MB", ylabel="accuracy",
              title="After one class-incremental pass")
    right.legend(frameon=False, fontsize=8)
    _save(figure, path)


def costs(
    path: Path, by_samples: Sequence[dict[str, Any]], by_classes: Sequence[dict[str, Any]]
) -> None:
    """How much longer each operation takes with more stored samples, and with more classes."""
    figure, axes = _subplots(1, 2, figsize=(10, 4.2), sharey=True)
    for one, points, by in zip(
        axes, (by_samples, by_classes), ("samples", "classes"), strict=True
    ):
        for name, (label, style) in _COSTS.items():
            ratios = [1.0, *(point["ratio"][name] for point in points[1:])]
            one.plot([point[by] for point in points], ratios, style, label=label)
        one.axhline(1.0, color="0.7", lw=0.8)
        one.set(xscale="log", xlabel=_SIZES[by])
    axes[0].set(ylabel="times as long as with the fewest", ylim=(0, None))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3,
                  frameon=False)
    _save(figure, path)


def _subplots(*shape: int, **options: Any) -> tuple[Any, Any]:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(*shape, layout="constrained", **options)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    figure.savefig(path, dpi=110)
    pyplot.close(figure)


_SIZES = {"samples": "stored samples, of 10 classes", "classes": "classes, 4,000 samples stored"}
_COSTS = {
    "prediction": ("sample to prediction", "o-"), "label": ("label to receipt", "s-"),
    "store": ("sample to receipt", "^-"), "processor": ("processor time of a sample", "d--"),
    "burst": ("stored in a burst, each", "v--"), "recovery": ("start to first prediction", "x:"),
}


def _with_bytes(results: dict[str, list[Figures]]) -> Iterator[tuple[str, Figures]]:
    yield "everything kept", results["streams"][0]
    for label in ("4 MB", "0.4 MB"):
        yield f"{label} of samples", results[label][0]
    yield "no samples", results["alone"][0]
    yield "1 MB in all", results["one_megabyte"][0]


def _curves(axes: Any, config: Config, matrix: NDArray[np.float64], per_pair: int) -> None:
    store = Reader(config.state.log)
    hits = np.array(store.hits(per_pair * len(matrix)), float)
    window = min(_WINDOW, max(10, len(hits) // 20))
    moving = np.convolve(hits, np.ones(window) / window, "valid")
    axes.plot(np.arange(len(moving)) + window, moving, lw=0.9, color="0.6",
              label=f"before learning, last {window} labels")
    at = per_pair * np.arange(1, len(matrix) + 1)
    seen = [matrix[i, : i + 1].mean() for i in range(len(matrix))]
    axes.plot(at, seen, "o-", color="C0", label="test images of the classes seen so far")


def _swaps(axes: Any, events: Sequence[dict[str, Any]]) -> None:
    """A line where a generation with new blocks began to serve."""
    grown = [event["data"] for event in events
             if event["type"] == "generation" and event["data"]["blocks"]]
    for number, swap in enumerate(grown):
        axes.axvline(swap["labels"], color="C2", lw=1, ls=":",
                     label="new generation serves (blocks)" if number == 0 else None)
        axes.annotate(str(swap["blocks"]), (swap["labels"], 1.0), color="C2", ha="right")


def _matrix(axes: Any, matrix: NDArray[np.float64], groups: Sequence[tuple[str, ...]]) -> None:
    names = [" +\n".join(group) for group in groups]
    axes.imshow(matrix, vmin=0.5, vmax=1.0, cmap="Greens", aspect="auto")
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.set_yticks(range(len(matrix)), [f"pair {i + 1}" for i in range(len(matrix))])
    axes.set(ylabel="after", title="R[i][j]: test accuracy per class group")
    for i in range(len(matrix)):
        for j in range(i + 1):
            shade = "white" if matrix[i, j] > 0.85 else "black"
            axes.text(j, i, f"{matrix[i, j]:.3f}", ha="center", va="center", color=shade)
