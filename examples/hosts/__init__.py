"""The parts of `multi_host.py`, one job each."""
