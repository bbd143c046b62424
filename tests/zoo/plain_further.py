"""Plain JAX: further models that inference had not seen when they were written, those that taught it something."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.zoo._model import array, zoo_model
from tests.zoo.plain import shapes
from tests.zoo.plain_varied import LINEAR


@zoo_model(truth={"[bc]": "linear 1 > 0", "lam_re|lam_im|step|d": "gain > 0"} | LINEAR)
def discretised_state_space():
    """S5: what a state decays by is a factor of its input matrix, too."""

    def apply(p, x):
        lam = p["lam_re"] + 1j * p["lam_im"]
        b, c = (p[name][..., 0] + 1j * p[name][..., 1] for name in "bc")
        decay = jnp.exp(lam * jnp.exp(p["step"]))
        drive = ((decay - 1) / lam)[:, None] * b
        u = x @ p["enc"]
        decays = jnp.broadcast_to(decay, (*u.shape[:2], 5))
        inputs = u.astype(jnp.complex64) @ drive.T
        states = lax.associative_scan(lambda s, t: (t[0] * s[0], t[0] * s[1] + t[1]), (decays, inputs), axis=1)[1]
        return jax.nn.gelu((states @ c.T).real + p["d"] * u) @ p["dec"]

    params = shapes(enc=(3, 6), lam_re=5, lam_im=5, step=5, b=(5, 6, 2), c=(6, 5, 2), d=6, dec=(6, 4))
    return apply, params, (array(2, 7, 3),)
