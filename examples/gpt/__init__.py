"""The parts of `train_gpt.py`, one job each."""
