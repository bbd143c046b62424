"""The parts of `lipschitz_transformer.py`, one job each."""
