"""Shared by all tests: checked annotations, strict promotion, and the names that docstring examples use."""

from jaxtyping import install_import_hook

import tests.checker  # noqa: F401  (the hook looks it up by name)

with install_import_hook("modula_optax", "tests.checker.check_arrays"):
    import modula_optax as mo

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

# a mesh to spread over, before the first array is made
jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture
def strict_promotion():
    """No implicit change of dtype or rank; for tests of our own code alone, since Optax's momentum is not as strict."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(autouse=True)
def names_of_examples(doctest_namespace):
    doctest_namespace.update({name: getattr(mo, name) for name in dir(mo) if not name.startswith("_")})
    doctest_namespace.update(jax=jax, jnp=jnp, np=np, optax=optax, mo=mo)
