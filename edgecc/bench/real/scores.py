"""From learning curves to the figures that count: the node beside the best baseline."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

NODE = "edgecc"
_SLACK = 0.01  # more labels may make a curve worse by so much

Points = Mapping[str, Mapping[str, Any]]  # of one contender, by labels a class: accuracies, costs
Curves = Mapping[str, Points]  # of one data set, by contender


def mean(point: Mapping[str, Any]) -> float:
    """Balanced accuracy, over the draws."""
    return float(np.mean(point["accuracies"]))


def joined(several: Sequence[Points]) -> dict[str, dict[str, Any]]:
    """The points of several draws as one curve: accuracies listed, of the costs the mean."""
    counts = dict.fromkeys(count for points in several for count in points)
    curve = {}
    for count in counts:
        given = [points[count] for points in several if count in points]
        costs = dict.fromkeys(key for point in given for key in point if key != "accuracy")
        curve[count] = {"accuracies": [point["accuracy"] for point in given]} | {
            key: float(np.mean([point[key] for point in given if key in point])) for key in costs}
    return curve


def best(curves: Curves, count: str) -> tuple[str, float]:
    """The baseline that does best at so many labels, and its accuracy."""
    means = {name: mean(points[count]) for name, points in curves.items()
             if not name.startswith(NODE)}
    name = max(means, key=lambda contender: means[contender])
    return name, means[name]


def gaps(sets: Mapping[str, Curves]) -> dict[tuple[str, str], float]:
    """By set and labels a class: points by which the node is above the best baseline."""
    return {(name, count): 100 * (mean(point) - best(curves, count)[1])
            for name, curves in sets.items() for count, point in curves[NODE].items()}


def violations(sets: Mapping[str, Curves]) -> list[tuple[str, str]]:
    """Where the node does worse by more than a point than with fewer labels: set and labels."""
    return [(name, count) for name, curves in sets.items()
            for count in _falls({at: mean(point) for at, point in curves[NODE].items()})]


def auto_gaps(sets: Mapping[str, Curves]) -> dict[tuple[str, str], float]:
    """By set and labels: points by which the default is above the best stem chosen by hand."""
    return {
        (name, count): 100 * (mean(point) - max(hands))
        for name, curves in sets.items() for count, point in curves[NODE].items()
        if (hands := [mean(points[count]) for contender, points in curves.items()
                      if contender.startswith(f"{NODE} ") and count in points])}


def heldout_errors(sets: Mapping[str, Curves]) -> dict[tuple[str, str], float]:
    """By set and labels: how far the accuracy that the node believes is from that on test rows."""
    return {(name, count): abs(point["held_out"] - point["plain"])
            for name, curves in sets.items() for count, point in curves[NODE].items()
            if "held_out" in point}


def summary(sets: Mapping[str, Curves]) -> dict[str, Any]:
    """worst_gap, mean_gap, auto_gap in points; monotone_violations; heldout_error by set."""
    above, fallen, auto = gaps(sets), violations(sets), auto_gaps(sets)
    worst = min(above, key=lambda at: above[at])
    return {
        "worst_gap": above[worst], "worst_gap_at": list(worst),
        "mean_gap": float(np.mean([*above.values()])),
        "monotone_violations": len(fallen), "monotone_violations_at": [list(at) for at in fallen],
        "heldout_error": {" ".join(at): error for at, error in heldout_errors(sets).items()},
    } | ({"auto_gap": min(auto.values())} if auto else {})


def _falls(curve: Mapping[str, float]) -> list[str]:
    accuracies = list(curve.values())
    return [count for n, count in enumerate(curve)
            if n and accuracies[n] < max(accuracies[:n]) - _SLACK]
