"""Models of Equinox: what `equimo` has for images, and networks in `diffrax`'s equations."""

from collections.abc import Callable, Mapping
from typing import Any

import diffrax
import equimo.models as zoo
import equinox as eqx
import jax
import jax.numpy as jnp
from equimo.models import attnet, iformer, lowformer, mobilenet, reduceformer
from flowjax import flows
from flowjax.bijections import RationalQuadraticSpline
from flowjax.distributions import Normal
from paramax import non_trainable

from tests.real import _equinox
from tests.real._model import Layout, real_models

KEY = jax.random.key(0)
_equinox.LAYOUTS |= {
    "LayerScale": {"gamma": _equinox.GAIN},
    "DyT": {"alpha": _equinox.GAIN, "weight": _equinox.GAIN, "bias": _equinox.BIAS},
    "RMSNorm2d": _equinox.NORM,
    "LayerNorm2d": _equinox.NORM,
    # of a state space: steps, rates and what passes by, a number for each head
    "Mamba2Mixer": {"dt_bias": _equinox.BIAS, "A_log": _equinox.GAIN, "D": _equinox.GAIN},
    "RMSNormGated": {"w": _equinox.GAIN},
}


def images(
    make: Callable[..., Any], size: int = 224, own: Mapping[str, Layout] = {}, **arguments: Any
) -> Callable[[], Any]:
    """A network that takes one image, channels first."""

    def call(model: Any, x: jax.Array) -> jax.Array:
        return jax.vmap(lambda one: model(one, key=KEY, inference=True))(x)

    return _equinox.built(
        lambda key: make(key=key, **arguments), call, jax.ShapeDtypeStruct((2, 3, size, size), jnp.float32), own=own
    )


VIT = {
    r"cls_token": "positional 0 > 1",
    r"reg_tokens": "positional 0 > 1",
    r"global_pos_embed/weight": "positional 0 > 1",
}

STAGES = {"dim": 32, "depths": [1, 1, 1, 1], "num_classes": 10}


real_models(
    "equimo",
    {
        "vit_tiny": images(zoo.vit.vit_tiny_patch16_224, own=VIT),
        "vit_layer_scale": images(
            *(zoo.VisionTransformer, 224, VIT),
            img_size=224,
            in_channels=3,
            dim=192,
            patch_size=16,
            num_heads=3,
            depths=[3],
            init_values=1e-5,
            qk_norm=True,
            ffn_layer="swiglu",
            num_classes=10,
        ),
        "convnext_t": images(zoo.convnext.convnext_t),
        "mobilenetv3_small": images(mobilenet.mobilenetv3_small),
        # a share of the mean of generated kernels, for each channel
        "attnet_xxs": images(attnet.attnet_xxs, own={r".*/difference_control": "gain > 3"}),
        "iformer_t": images(iformer.iformer_t),
        "lowformer_b0": images(lowformer.lowformer_backbone_b0, 256, attention_type="softmax"),
        "iformer_m_faster": images(iformer.iformer_m_faster),
        # the output of its attention is computed, and then the layer after it is given the input instead
        "mlla": images(
            *(zoo.Mlla, 224, {r".*/(in_proj|dwc|attn)/.*": "unused"}),
            img_size=224,
            in_channels=3,
            num_heads=[1, 2, 4, 8],
            **STAGES,
        ),
        "vssd": images(zoo.Vssd, 224, img_size=224, in_channels=3, **STAGES),
        "partialformer": images(
            *(zoo.PartialFormer, 224, {"qa_token": "positional 0 > 1", r".*/norm1/.*": "unused"}),
            img_size=224,
            in_channels=3,
            dim=32,
            num_heads=[1, 2, 4, 8],
            depths=[1, 1, 1, 1],
            foreground_ratios=(0.6, 0.9),
            num_classes=10,
        ),
        "reduceformer_b1": images(reduceformer.reduceformer_backbone_b1),
    },
)


def flow(make: Callable[..., Any], size: int = 6, **arguments: Any) -> Callable[[], Any]:
    """A flow over vectors, by the density that it gives them."""

    def call(distribution: Any, x: jax.Array) -> jax.Array:
        return distribution.log_prob(x)

    return _equinox.built(
        lambda key: make(key, base_dist=non_trainable(Normal(jnp.zeros(size))), flow_layers=3, **arguments),
        *(call, jax.ShapeDtypeStruct((16, size), jnp.float32)),
        own=FLOW,
    )


FLOW = {
    r"base_dist/bijection/loc/tree": "bias > 0",
    r"base_dist/bijection/scale/.*": "gain > 0",
    # weights are masked, and their rows normalised, before a layer takes them
    r".*/(masked_autoregressive_mlp|bijection)/layers/.*/weight/args/\d": "linear 1 > 0",
    r".*/(masked_autoregressive_mlp|bijection)/layers/.*/weight/weight/args/\d": "linear 1 > 0",
    r".*/(masked_autoregressive_mlp|bijection)/layers/.*/weight/scale(/.*)?": "gain > 0 1",
    # two vectors and a number in one array
    r".*/bijections/\d/params": "unknown",
}
# `triangular_spline_flow` is left out: it wants numbers where it is made, not shapes
real_models(
    "flowjax",
    {
        "coupling": flow(flows.coupling_flow, nn_width=32, nn_depth=2),
        "coupling_spline": flow(
            flows.coupling_flow, nn_width=32, transformer=RationalQuadraticSpline(knots=8, interval=4)
        ),
        "autoregressive": flow(flows.masked_autoregressive_flow, nn_width=32, nn_depth=2),
        "block_autoregressive": flow(flows.block_neural_autoregressive_flow, nn_block_dim=4),
        "planar": flow(flows.planar_flow, width_size=16, depth=1),
    },
)


class VectorField(eqx.Module):
    """The right-hand side of `diffrax`'s example of neural differential equations."""

    mlp: eqx.nn.MLP

    def __init__(self, key: jax.Array):
        self.mlp = eqx.nn.MLP(4, 4, 32, 2, activation=jax.nn.softplus, key=key)

    def __call__(self, t: jax.Array, y: jax.Array, args: Any) -> jax.Array:
        return self.mlp(y)


def trajectory(field: VectorField, start: jax.Array) -> jax.Array:
    times = jnp.linspace(0.0, 1.0, 5)
    return jax.vmap(
        lambda y: (
            diffrax.diffeqsolve(
                *(diffrax.ODETerm(field), diffrax.Tsit5(), 0.0, 1.0, 0.1, y),
                stepsize_controller=diffrax.PIDController(rtol=1e-3, atol=1e-6),
                saveat=diffrax.SaveAt(ts=times),
            ).ys
        )
    )(start)


class Controlled(eqx.Module):
    """`diffrax`'s neural controlled differential equation: the field is a matrix, which its control is put into."""

    initial: eqx.nn.MLP
    field: eqx.nn.MLP
    linear: eqx.nn.Linear

    def __init__(self, key: jax.Array):
        keys = jax.random.split(key, 3)
        self.initial = eqx.nn.MLP(3, 8, 32, 1, key=keys[0])
        self.field = eqx.nn.MLP(8, 8 * 3, 32, 1, activation=jax.nn.softplus, final_activation=jnp.tanh, key=keys[1])
        self.linear = eqx.nn.Linear(8, 1, key=keys[2])

    def __call__(self, times: jax.Array, coefficients: Any) -> jax.Array:
        control = diffrax.CubicInterpolation(times, coefficients)
        term = diffrax.ControlTerm(lambda t, y, args: self.field(y).reshape(8, 3), control).to_ode()
        start = self.initial(control.evaluate(times[0]))
        solution = diffrax.diffeqsolve(term, diffrax.Tsit5(), times[0], times[-1], 0.1, start)
        return self.linear(solution.ys[-1])


def classified(model: Controlled, series: jax.Array) -> jax.Array:
    times = jnp.linspace(0.0, 1.0, series.shape[1])
    return jax.vmap(lambda s: model(times, diffrax.backward_hermite_coefficients(times, s)))(series)


real_models(
    "diffrax",
    {
        "neural_ode": _equinox.built(VectorField, trajectory, jax.ShapeDtypeStruct((8, 4), jnp.float32)),
        "neural_cde": _equinox.built(Controlled, classified, jax.ShapeDtypeStruct((8, 10, 3), jnp.float32)),
    },
)
