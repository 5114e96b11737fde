"""Runs a compiled model on LiteRT."""

import numpy as np
from numpy.typing import NDArray


class Interpreter:
    """One model, ready to run; not to be shared between threads."""

    def __init__(self, model: bytes, *, threads: int = 1) -> None:
        from ai_edge_litert.interpreter import Interpreter as LiteRT  # type: ignore[import-untyped]

        self._runtime = LiteRT(model_content=model, num_threads=threads)
        self._runtime.allocate_tensors()
        self._input: int = self._runtime.get_input_details()[0]["index"]
        self._output: int = self._runtime.get_output_details()[0]["index"]

    def run(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """The output for one sample (H, W, C), as a copy without its batch axis."""
        self._runtime.set_tensor(self._input, x[None])
        self._runtime.invoke()
        output: NDArray[np.float32] = self._runtime.get_tensor(self._output)[0]
        return output
