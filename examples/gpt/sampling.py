"""Sampling: what the trained model writes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int, PRNGKeyArray

from gpt.model import GPT, predict


def sample(model: GPT, params: optax.Params, prompt: np.ndarray, length: int, key: PRNGKeyArray) -> str:
    """Continues a prompt, one byte at a time.

    Args:
      model: the network.
      params: its weights.
      prompt: bytes that the model sees first, as many as its context.
      length: number of bytes to write.
      key: a random key.

    Returns:
      The continuation; what cannot be shown is replaced.
    """
    written = generate(model, length, params, jnp.asarray(prompt, jnp.int32), key)
    return readable(np.asarray(written, np.uint8))


def readable(text: np.ndarray) -> str:
    """Bytes as text, with a mark in the place of all that a terminal should not be sent."""
    decoded = text.tobytes().decode(errors="replace")
    return "".join(character if character.isprintable() or character == "\n" else "\ufffd" for character in decoded)


@partial(jax.jit, static_argnums=(0, 1))
def generate(
    model: GPT, length: int, params: optax.Params, window: Int[Array, " context"], key: PRNGKeyArray
) -> Int[Array, " length"]:
    """Bytes drawn at temperature 0.7 after a window that moves along: rotary positions are relative."""

    def write(window: Int[Array, " context"], key: PRNGKeyArray):
        byte = jax.random.categorical(key, predict(model, params, window[None])[0, -1] / 0.7)
        return jnp.append(window[1:], byte), byte

    return jax.lax.scan(write, window, jax.random.split(key, length))[1]
