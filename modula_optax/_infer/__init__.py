"""Inference: the spec of every parameter, read off the jaxpr of the model."""

from modula_optax._infer._infer import infer_specs as infer_specs
