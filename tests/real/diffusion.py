"""The last Flax models of `diffusers`: Stable Diffusion's parts, and a control net."""

import warnings
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tests.real import _linen
from tests.real._model import RealModel, real_models

# the package warns of the end of its Flax models as it is imported, and whenever one is made
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from diffusers.models.controlnets.controlnet_flax import FlaxControlNetModel
    from diffusers.models.unets.unet_2d_condition_flax import FlaxUNet2DConditionModel
    from diffusers.models.vae_flax import FlaxAutoencoderKL

LATENTS = jax.ShapeDtypeStruct((2, 4, 32, 32), jnp.float32)
STEPS = jax.ShapeDtypeStruct((2,), jnp.int32)


def built(make: Callable[[], nn.Module], *inputs: Any) -> Callable[[], RealModel]:
    def build() -> RealModel:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _linen.built(make(), *inputs, outputs=lambda out: jax.tree.leaves(out.to_tuple()))

    return build


def text(features: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((2, 77, features), jnp.float32)


def image(size: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((2, 3, size, size), jnp.float32)


real_models(
    "diffusers",
    {
        "unet_sd15": built(
            lambda: FlaxUNet2DConditionModel(sample_size=32, cross_attention_dim=768), LATENTS, STEPS, text(768)
        ),
        "unet_sd21": built(
            lambda: FlaxUNet2DConditionModel(
                *(),
                sample_size=32,
                cross_attention_dim=1024,
                attention_head_dim=(5, 10, 20, 20),
                use_linear_projection=True,
            ),
            *(LATENTS, STEPS, text(1024)),
        ),
        "controlnet": built(
            lambda: FlaxControlNetModel(sample_size=32, cross_attention_dim=768),
            *(LATENTS, STEPS, text(768), image(256)),
        ),
        "vae": built(
            lambda: FlaxAutoencoderKL(
                *(),
                block_out_channels=(128, 256, 512, 512),
                layers_per_block=2,
                latent_channels=4,
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
            ),
            image(64),
        ),
    },
)
