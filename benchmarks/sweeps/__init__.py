"""Sweeps of training runs: what is trained, by which optimizers, once per configuration."""

import sys
from pathlib import Path

# the network and the text are those of the example
sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
