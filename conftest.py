"""Shared by all tests: checked annotations, strict promotion, and the names that docstring examples use."""

import os
from pathlib import Path

# read when a worker imports NumPy: a worker for each core is enough, and threads that wait for one another are busy
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from tests.checker import arrays_checked

with arrays_checked("modula_optax"):
    import modula_optax as mo

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

# a mesh to spread over, before the first array is made
jax.config.update("jax_num_cpu_devices", 8)
# Most of the time goes into compiling small programs that run once: XLA does little to them, and what was compiled once
# is kept in the checkout, for other tests, for the workers beside this one, and for the next run.
COMPILATION = {
    "jax_disable_most_optimizations": True,
    "jax_compilation_cache_dir": str(Path(__file__).parent / ".jax_cache"),
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}
for name, value in COMPILATION.items():
    jax.config.update(name, value)

# a script for what was installed alone, not for this checkout
collect_ignore = ["tests/installed.py"]

hypothesis.settings.register_profile("short", deadline=None, derandomize=True, max_examples=20)
hypothesis.settings.register_profile("long", deadline=None, max_examples=500)


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="the long forms of the tests of reliability: half an hour")


def pytest_configure(config):
    hypothesis.settings.load_profile("long" if config.getoption("--long") else "short")


@pytest.fixture(scope="session")
def long(request) -> bool:
    """Whether tests are to take their long forms."""
    return request.config.getoption("--long")


@pytest.fixture(scope="module", autouse=True)
def programs_are_let_go(request):
    """A compiled program maps memory, of which Linux allows a process 65,530 pieces: thousands of tests would crash.

    Files that are marked as `optimized` make claims about numbers, in the programs that users compile.
    """
    optimized = request.node.get_closest_marker("optimized") is not None
    jax.config.update("jax_disable_most_optimizations", not optimized)
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def compilation_environment():
    """The settings of compilation, for processes of their own that are to share and to round like this one."""
    return {name.upper(): str(value) for name, value in COMPILATION.items()}


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
