"""Ordinary learners, with what a careful user would set: accuracy, processor time, memory, state.

Each sees the same rows as the node does. Features of a row are computed once; their time counts for
each row that is taught or asked.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecc.bench.metrics import balanced_accuracy
from edgecc.bench.real import draws, features
from edgecc.bench.real.datasets import RealSet, load
from edgecc.bench.real.features import Floats
from edgecc.host.memory import peak_memory

_TREES = 200
_ALPHAS = np.logspace(-3, 3, 10)  # of the ridge behind MiniRocket, as its authors have it


@dataclass(frozen=True)
class Baseline:
    kinds: tuple[str, ...]  # of data that it is for
    features: Callable[[NDArray[Any]], Any]  # of each row by itself
    learner: Callable[[], Any]  # scikit-learn's fit and predict


def measure(
    *, name: str, baseline: str, labels: Sequence[str], validate: bool
) -> dict[str, Any]:
    """One baseline's learning curve on one data set: `points`, by labels a class."""
    data = load(name)
    return {"points": curve(draws.held_out(data) if validate else data, BASELINES[baseline],
                            labels)}


def curve(data: RealSet, baseline: Baseline, labels: Sequence[str]) -> dict[str, dict[str, Any]]:
    """By labels a class: accuracies of the draws; cost, as the mean over them."""
    _warm(baseline, data)
    _forget_peak()
    started = time.process_time()
    x, test_x = baseline.features(data.x), baseline.features(data.test_x)
    a_row = (time.process_time() - started) / (len(x) + len(test_x))
    points = {}
    for count in draws.steps(data.y, labels):
        several = []
        for draw in range(draws.DRAWS[count]):
            rows = draws.taught(data.y, count, draw)
            several.append(_once(baseline, (x[rows], data.y[rows]), (test_x, data.test_y), a_row))
        points[count] = {
            "taught": len(rows), "accuracies": [one.pop("accuracy") for one in several],
            **{key: float(np.mean([one[key] for one in several])) for key in several[0]}}
    return points


def _once(
    baseline: Baseline, taught: tuple[Any, NDArray[np.str_]], asked: tuple[Any, NDArray[np.str_]],
    a_row: float,
) -> dict[str, float]:
    (x, y), (test_x, test_y) = taught, asked
    started = time.process_time()
    learner = baseline.learner().fit(x, y)
    fitted = time.process_time()
    named = learner.predict(test_x)
    ended = time.process_time()
    return {
        "accuracy": balanced_accuracy(test_y, named),
        "cpu_s": fitted - started + a_row * len(y),
        "predict_ms": 1000 * ((ended - fitted) / len(test_y) + a_row),
        "peak_bytes": peak_memory(), "state_bytes": array_bytes(learner, set()),
    }


def array_bytes(value: Any, seen: set[int]) -> int:
    """Bytes of all arrays that a learner holds, each once; `seen`: identities already counted."""
    if id(value) in seen or isinstance(value, type):
        return 0
    seen.add(id(value))
    if isinstance(value, np.ndarray) and value.dtype != object:
        return value.nbytes
    if isinstance(value, dict):
        inner: Any = value.values()
    elif isinstance(value, list | tuple | np.ndarray):
        inner = value
    elif type(value).__module__.split(".")[0] in ("sklearn", "aeon"):
        state = value.__getstate__()  # of sklearn's trees too, which have no __dict__
        inner = state.values() if isinstance(state, dict) else state
    else:
        return 0
    return sum(array_bytes(one, seen) for one in inner)


def _warm(baseline: Baseline, data: RealSet) -> None:
    """Imports and compilation are over before the clock starts."""
    first = [int(np.flatnonzero(data.y == name)[0]) for name in data.classes]
    x = baseline.features(data.x[first])
    baseline.learner().fit(x, data.y[first]).predict(x)


def _forget_peak() -> None:
    """VmHWM starts again at what is resident now (proc(5), clear_refs)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _windows(rows: NDArray[Any]) -> Floats:
    return rows.astype(np.float32)


def _majority() -> Any:
    from sklearn.dummy import DummyClassifier

    return DummyClassifier()


def _nearest() -> Any:
    from sklearn.neighbors import KNeighborsClassifier

    return _standardised(KNeighborsClassifier(1))


def _logistic() -> Any:
    from sklearn.linear_model import LogisticRegression

    return _standardised(LogisticRegression(max_iter=2000))


def _svm() -> Any:
    from sklearn.svm import SVC

    return _standardised(SVC(C=10.0))


def _forest() -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(_TREES, random_state=0)


def _minirocket() -> Any:
    from aeon.transformations.collection.convolution_based import MiniRocket
    from sklearn.linear_model import RidgeClassifierCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(
        MiniRocket(random_state=0), StandardScaler(), RidgeClassifierCV(alphas=_ALPHAS))


def _standardised(learner: Any) -> Any:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), learner)


_ALL = ("sensor", "values", "image")
BASELINES = {
    "majority": Baseline(_ALL, features.values, _majority),
    "1-NN": Baseline(_ALL, features.values, _nearest),
    "logistic regression": Baseline(_ALL, features.values, _logistic),
    "SVM": Baseline(_ALL, features.values, _svm),
    "random forest": Baseline(_ALL, features.values, _forest),
    "statistics + logreg": Baseline(("sensor",), features.statistics, _logistic),
    "statistics + RF": Baseline(("sensor",), features.statistics, _forest),
    "catch22 + RF": Baseline(("sensor",), features.catch22, _forest),
    "MiniRocket + ridge": Baseline(("sensor",), _windows, _minirocket),
    "pretrained + logreg": Baseline(("image",), features.pretrained, _logistic),
    "pretrained + SVM": Baseline(("image",), features.pretrained, _svm),
}
