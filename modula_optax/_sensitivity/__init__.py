"""Traced sensitivities: how much the output moves, at most, per unit that a parameter moves in its norm."""

from modula_optax._sensitivity._origins import Origins as Origins
from modula_optax._sensitivity._backward import sensitivities as sensitivities
