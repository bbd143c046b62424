"""Initialization: a random parameter of atomic norm one for every leaf."""

import zlib
from typing import Any

import jax
import jax.core
from jaxtyping import DTypeLike, PRNGKeyArray

from modula_optax._align import Leaf
from modula_optax._arguments import in_words
from modula_optax._layout import atoms_shape, restored
from modula_optax._linalg import working_dtype
from modula_optax._paths import describe, listing
from modula_optax._registry import resolve
from modula_optax._specs import NormSpec


def initialize(key: PRNGKeyArray, params: Any, specs: Any) -> Any:
    """Random parameters, each of atomic norm one: orthogonal matrices, embedding rows of RMS one, gains of one.

    What a parameter gets depends on `key`, its path, its shape and its spec alone.

    Args:
      key: a random key.
      params: the parameters to replace, or a tree of `jax.ShapeDtypeStruct` of their shapes.
      specs: what the norm of each is; see `NormSpec`. `Unnormed` parameters stay as they are.

    Returns:
      A tree of the structure, shapes, dtypes and shardings of `params`.

    Raises:
      ValueError: `key` is no random key, specs do not fit the parameters, or an `Unnormed` one is only a
        `jax.ShapeDtypeStruct`.

    Example:
      >>> specs = NormSpec(Spectral())
      >>> params = initialize(jax.random.key(0), {"w": jnp.zeros((8, 4))}, specs)
      >>> modular_norm(params, specs).round(3)
      Array(1., dtype=float32)

    References:
      Large et al., Scalable Optimization in the Modular Norm, arXiv:2405.14813, section 3.1.
    """
    _check_key(key)
    leaves, treedef = resolve(specs, params)
    abstract = [
        describe(leaf.path, leaf.value)
        for leaf in leaves
        if not leaf.spec.is_normed and isinstance(leaf.value, jax.ShapeDtypeStruct)
    ]
    if abstract:
        one, many = "parameter without values is Unnormed", "parameters without values are Unnormed"
        advice = "Pass real arrays, which then stay as they are, or give them a norm to start at."
        raise ValueError(listing(one, many, abstract, advice))
    return treedef.unflatten([_initialize_leaf(key, leaf) for leaf in leaves])


def _check_key(key: Any) -> None:
    try:
        jax.eval_shape(lambda key: jax.random.fold_in(key, 0), key)
    except (TypeError, ValueError):
        raise ValueError(f"key must be one random key, such as jax.random.key(0); got {in_words(key)}.") from None


def _initialize_leaf(key: PRNGKeyArray, leaf: Leaf) -> Any:
    path, value, spec = leaf
    if not spec.is_normed:
        return value
    # the path, not the position: masking a tree or adding a layer leaves what the other leaves get alone
    key = jax.random.fold_in(key, zlib.crc32(path.encode()))
    fresh = _random_parameter(key, spec, tuple(value.shape), jax.dtypes.canonicalize_dtype(value.dtype))
    sharding = getattr(value, "sharding", None)
    return fresh if sharding is None or isinstance(value, jax.core.Tracer) else jax.device_put(fresh, sharding)


def _random_parameter(key: PRNGKeyArray, spec: NormSpec, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    fresh = spec.norm.initialize(key, atoms_shape(spec, shape), working_dtype(dtype))
    return restored(fresh, spec, jax.ShapeDtypeStruct(shape, dtype))
