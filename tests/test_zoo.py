"""Inference on the zoo: every role and axis right, in every coordinate system of the parameters."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import modula_optax as mo
from modula_optax._axes import to_canonical
from modula_optax._paths import flatten_with_paths
from tests.zoo import ZOO, ZooModel, axes_of

MODELS = sorted(ZOO)


def infer(model: ZooModel, apply=None, params=None, inputs=None):
    """Specs by path; warnings are the business of other tests."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        specs = mo.infer_specs(
            apply or model.apply, params or model.params, *(inputs or model.inputs), unknown=mo.Unnormed()
        )
    return {path: spec for path, spec in flatten_with_paths(specs)[0] if isinstance(spec, mo.NormSpec)}


@pytest.mark.parametrize("name", MODELS)
def test_every_leaf_of_the_zoo_is_right(name):
    model = ZOO[name]()
    found = infer(model)
    assert {path: axes_of(spec) for path, spec in found.items()} == {
        path: " ".join(model.expected(path).split()) for path in found
    }


def reversed_axes(model: ZooModel):
    """The same model with the axes of every parameter reversed, and turned back inside."""
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[::-1], x.dtype), model.params)
    return lambda p, *a: model.apply(jax.tree.map(jnp.transpose, p), *a), params


@pytest.mark.parametrize("name", MODELS)
def test_reversing_the_axes_of_every_parameter_reverses_what_is_found(name):
    model = ZOO[name]()
    expected, found = infer(model), infer(model, *reversed_axes(model))
    ndims = {path: len(leaf.shape) for path, leaf in flatten_with_paths(model.params)[0] if hasattr(leaf, "shape")}
    for path, spec in expected.items():
        mirrored = found[path]
        assert (mirrored.role, mirrored.place, mirrored.confidence) == (spec.role, spec.place, spec.confidence), path
        if spec.axes is not None:
            last = ndims[path] - 1
            back = [sorted(last - i for i in getattr(mirrored.axes, n)) for n in ("fan_in", "fan_out", "taps")]
            assert back == [sorted(getattr(spec.axes, n)) for n in ("fan_in", "fan_out", "taps")], path
            assert mirrored.axes.groups == spec.axes.groups


# Fourier transforms and complex numbers have no half precision, rotary angles in single precision do not mix with it
IN_SINGLE_PRECISION = (
    "plain.fourier_neural_operator",
    "plain.fourier_of_a_parameter",
    "plain_nets.diagonal_state_space",
    "plain_nets.llama",
    "plain_papers.hyena",
)


@pytest.mark.parametrize("name", [name for name in MODELS if name not in IN_SINGLE_PRECISION])
def test_jit_remat_and_half_precision_change_nothing(name):
    model = ZOO[name]()

    def half(x):
        return x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x

    def apply(params, *inputs):
        return model.apply(jax.tree.map(half, params), *jax.tree.map(half, inputs))

    assert infer(model, jax.jit(jax.checkpoint(apply))) == infer(model)


@pytest.mark.parametrize("name", [name for name in MODELS if name.startswith(("linen", "haiku", "equinox"))])
def test_vmap_over_a_batch_changes_nothing(name):
    model = ZOO[name]()
    stacked = tuple(jax.ShapeDtypeStruct((3, *x.shape), x.dtype) for x in model.inputs)

    def apply(params, *inputs):
        return jax.vmap(lambda *a: model.apply(params, *a))(*inputs)

    assert infer(model, apply, inputs=stacked) == infer(model)


def random_like(tree, seed: int):
    """Values for shapes: integers small enough to index any table."""
    rng = np.random.default_rng(seed)

    def draw(x):
        if jnp.issubdtype(x.dtype, jnp.integer):
            return jnp.asarray(rng.integers(0, 4, x.shape), x.dtype)
        return jnp.asarray(rng.normal(size=x.shape) * 0.5, x.dtype)

    return jax.tree.map(draw, tree)


# models in which many layers see one input at a time, and that compile in a second
DECISIVE = """
plain.hypernetwork plain.lora plain.lora_merged plain.matrix_written_out plain.mixture_of_weights plain.nerf
plain.shared_layers plain.stack_indexed plain_nets.block_diagonal plain_nets.continuous_position_bias
plain_nets.coordinates_made_inside plain_nets.diagonal_state_space plain_nets.in_another_basis
plain_nets.llama plain_nets.rwkv plain_nets.transformer_xl plain.diffusion_conditioned
plain.fourier_neural_operator equinox.mlp equinox.scan_mlp equinox.weight_norm equinox.gru_lstm nnx.mlp
nnx.lora nnx.mlp_scanned linen.mlp linen.deepsets haiku.mlp haiku.layer_stack haiku.bilinear_gate
ninjax.residual_mlp
"""


def first_outputs(outputs, seed: int):
    """Random signals at the first sample and the first position only, for everything that is not an integer."""
    signals = random_like(outputs, seed)

    def keep_first(x):
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            return np.zeros(x.shape, jax.dtypes.float0)
        first = (slice(None, 1),) * (x.ndim - 1)
        return jnp.zeros_like(x).at[first].set(x[first])

    return jax.tree.map(keep_first, signals)


def rank(matrix: np.ndarray) -> int:
    # gradients of norms are not finite where random integers left a sum empty
    usable = np.isfinite(matrix).all() and matrix.any()
    return int(np.linalg.matrix_rank(matrix / np.linalg.norm(matrix), tol=1e-4)) if usable else 0


def test_gradients_agree_that_the_inputs_are_the_fan_in():
    """An oracle without a tracer: the gradient of a layer is a sum of (its input) x (a signal from the loss).

    Another loss changes the signals but not the inputs. Where one input counts alone, gradients of several losses are
    multiples of it: side by side they have rank one if the fan-in is the fan-in, on top of each other if it is not.
    """
    decided, contradicted = 0, []
    for name in DECISIVE.split():
        model = ZOO[name]()
        gradients = gradients_of_losses(model)
        for path, spec in infer(model).items():
            if spec.role != "linear":
                continue
            canonical = [to_canonical(g[path], spec.axes) for g in gradients]
            matrices = [np.asarray(m.reshape(-1, *m.shape[-2:])[0]) for m in canonical]
            if min(matrices[0].shape) > 1 and all(rank(m) == 1 for m in matrices):
                side, top = rank(np.concatenate(matrices, axis=1)), rank(np.concatenate(matrices, axis=0))
                decided += side != top
                contradicted += [f"{name}: {path}"] * (side > top)
    assert contradicted == []
    assert decided > 60


def gradients_of_losses(model: ZooModel) -> list[dict[str, jax.Array]]:
    params, inputs = random_like(model.params, 0), random_like(model.inputs, 1)

    @jax.jit
    def gradients(params):
        outputs, pullback = jax.vjp(lambda p: model.apply(p, *inputs), params)
        return [pullback(first_outputs(outputs, seed))[0] for seed in (2, 3, 4)]

    return [dict(flatten_with_paths(gradient)[0]) for gradient in gradients(params)]
