"""Run by `make dist`: the package that is imported is the installed one, is typed, and trains."""

from pathlib import Path

import jax.numpy as jnp

import modula_optax as mo

package = Path(mo.__file__).parent
assert package.parent.name == "installed", f"{package} is not what was installed"
assert (package / "py.typed").exists()

params = {"w": jnp.eye(3)}
tx = mo.modular(0.1, mo.NormSpec(mo.Spectral()), weight_decay=0.0)
updates, _ = tx.update(params, tx.init(params), params)
assert abs(float(mo.modular_norm(updates, mo.NormSpec(mo.Spectral()))) - 0.1) < 0.001
print(f"modula_optax {mo.__version__} works where it is installed alone")
