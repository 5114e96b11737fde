"""Runs a compiled model on LiteRT, or on the older tflite-runtime where numpy is below 2."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


class Interpreter:
    """One model, ready to run; not to be shared between threads."""

    def __init__(self, model: bytes, *, threads: int = 1) -> None:
        self._runtime = _runtime_class()(model_content=model, num_threads=threads)
        self._runtime.allocate_tensors()
        self._input: int = self._runtime.get_input_details()[0]["index"]
        self._output: int = self._runtime.get_output_details()[0]["index"]

    def run(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """The output for one sample (H, W, C), as a copy without its batch axis."""
        self._runtime.set_tensor(self._input, x[None])
        self._runtime.invoke()
        output: NDArray[np.float32] = self._runtime.get_tensor(self._output)[0]
        return output


def _runtime_class() -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter as LiteRT  # type: ignore[import-untyped]

        return LiteRT
    except ImportError:
        return _older_runtime_class()


def _older_runtime_class() -> Any:
    if np.lib.NumpyVersion(np.__version__) >= "2.0.0":
        raise RuntimeError(
            f"no LiteRT, and tflite-runtime fails with numpy {np.__version__}: "
            "pip install ai-edge-litert"
        )
    try:
        from tflite_runtime.interpreter import Interpreter as TFLite  # type: ignore[import-not-found]

        return TFLite
    except ImportError as error:
        raise RuntimeError("nothing to run models with: pip install ai-edge-litert") from error
