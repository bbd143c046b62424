"""Lipschitz bounds: how far the output of a network can move for an input that moves, by proven rules."""

from modula_optax._lipschitz._lipschitz import lipschitz_bound as lipschitz_bound
