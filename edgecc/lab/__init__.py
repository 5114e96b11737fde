"""The papers' own names, working: a script written for their code changes its import line only.

    from edgecc.lab import PoolConv, generate_data, DataGenConfig      # contextual convolution
    from edgecc.lab import SpelaTrainer, SpelaConfig                   # SPELA
    from edgecc.lab import CoConv, coresnet50                          # CoConv

docs/lab.md has an example of each. torch is loaded with the first name that is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgecc.lab.papers.class_vectors import generate_symmetric_vectors
    from edgecc.lab.papers.coresnet import CoConv, CoResNet, coresnet50, coresnet101, coresnet152
    from edgecc.lab.papers.pool_conv import PoolConv
    from edgecc.lab.papers.spela import SpelaConfig, SpelaTrainer
    from edgecc.learn.contextual_pairs import (
        DataGenConfig,
        generate_contextual_data,
        generate_data,
        generate_wrong_labels,
        one_hot_encode,
    )

__all__ = [
    "CoConv", "CoResNet", "DataGenConfig", "PoolConv", "SpelaConfig", "SpelaTrainer", "coresnet50",
    "coresnet101", "coresnet152", "generate_contextual_data", "generate_data",
    "generate_symmetric_vectors", "generate_wrong_labels", "one_hot_encode",
]
_MODULES = (
    "edgecc.lab.papers.pool_conv", "edgecc.lab.papers.spela", "edgecc.lab.papers.coresnet",
    "edgecc.lab.papers.class_vectors", "edgecc.learn.contextual_pairs",
)


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in map(import_module, _MODULES):
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
