"""`features.py MODEL SAMPLES OUT`: a model's features (n, dim) of samples (n, H, W, C)."""

import sys
from pathlib import Path

import numpy as np

from edgecc.trunk.interpreter import Interpreter

model, samples, out = sys.argv[1:]
run = Interpreter(Path(model).read_bytes()).run
np.save(out, np.stack([run(sample) for sample in np.load(samples)]))
