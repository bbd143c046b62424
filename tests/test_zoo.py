"""Inference on the zoo: every role and axis right, in every coordinate system of the parameters."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import modula_optax as mo
from modula_optax._paths import flatten_with_paths
from tests.zoo import ZOO, ZooModel, axes_of

MODELS = sorted(ZOO)


def infer(model: ZooModel, apply=None, params=None, inputs=None):
    """Specs by path; warnings are the business of other tests."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.filterwarnings("error", message="(?s).*modula_optax does not know")
        specs = mo.infer_specs(
            apply or model.apply, params or model.params, *(inputs or model.inputs), unknown=mo.Unnormed()
        )
    return {path: spec for path, spec in flatten_with_paths(specs)[0] if isinstance(spec, mo.NormSpec)}


@functools.cache
def inferred(name: str):
    """What is found in a model as it is, which others are compared with."""
    return infer(ZOO[name]())


@pytest.mark.parametrize("name", MODELS)
def test_every_leaf_of_the_zoo_is_right(name):
    model, found = ZOO[name](), inferred(name)
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
    expected, found = inferred(name), infer(model, *reversed_axes(model))
    ndims = {path: len(leaf.shape) for path, leaf in flatten_with_paths(model.params)[0] if hasattr(leaf, "shape")}
    for path, spec in expected.items():
        mirrored = found[path]
        assert (mirrored.role, mirrored.place, mirrored.confidence) == (spec.role, spec.place, spec.confidence), path
        if spec.axes is not None:
            last = ndims[path] - 1
            back = [sorted(last - i for i in getattr(mirrored.axes, n)) for n in ("fan_in", "fan_out", "taps")]
            assert back == [sorted(getattr(spec.axes, n)) for n in ("fan_in", "fan_out", "taps")], path
            assert mirrored.axes is not None
            assert mirrored.axes.groups == spec.axes.groups


# Fourier transforms, decompositions and complex numbers have no half precision, angles and states in single precision
# do not mix with it
IN_SINGLE_PRECISION = (
    "plain.fourier_neural_operator",
    "plain.fourier_of_a_parameter",
    "plain_agents.dreamer_v3",
    "plain_agents.mu_zero",
    "plain_derivatives.lagrangian",
    "plain_derivatives.volume_of_a_flow",
    "plain_further.discretised_state_space",
    "plain_generators.codes_of_rounded_numbers",
    "plain_generators.magnitude_preserving",
    "plain_graphs.factorised_fourier_operator",
    "plain_hybrids.three_layers_of_states_and_one_of_attention",
    "plain_images.unet_of_diffusion",
    "plain_learners.diffusion_policy",
    "plain_nets.diagonal_state_space",
    "plain_nets.llama",
    "plain_papers.hyena",
    "plain_sciences.attention_pooled_windows",
    "plain_sciences.striped_hyena",
    "plain_tables.adaptive_time",
    "plain_tables.glow",
)


@pytest.mark.parametrize("name", [name for name in MODELS if name not in IN_SINGLE_PRECISION])
def test_jit_remat_and_half_precision_change_nothing(name):
    model = ZOO[name]()

    def half(x):
        return x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x

    def apply(params, *inputs):
        return model.apply(jax.tree.map(half, params), *jax.tree.map(half, inputs))

    assert infer(model, jax.jit(jax.checkpoint(apply))) == inferred(name)


# products of groups, which JAX cannot vmap
IN_GROUPS = (
    "plain.ragged_experts",
    "plain_conventions.levanter_mixtral",
    "plain_conventions.maxtext_deepseek_experts_ragged",
)
# under vmap each sample has noise, or a mask, of its own
DRAWN_ONCE = ("plain_agents.rainbow", "plain_papers.weights_dropped_at_random")


@pytest.mark.parametrize("name", [name for name in MODELS if name not in IN_GROUPS + DRAWN_ONCE])
def test_vmap_over_a_batch_changes_nothing(name):
    model = ZOO[name]()
    stacked = jax.tree.map(lambda x: jax.ShapeDtypeStruct((3, *x.shape), x.dtype), model.inputs)

    def apply(params, *inputs):
        return jax.vmap(lambda *a: model.apply(params, *a))(*inputs)

    assert infer(model, apply, inputs=stacked) == inferred(name)


# nothing that follows tells what the axis of members is
ENDS_WITH_MEMBERS = ("plain.linear_regression", "plain.linear_written_out", "plain_papers.knowledge_graph")


def told(spec: mo.NormSpec, before: int = 0):
    """Role, axes and groups, with so many axes before those of one member."""
    axes = spec.axes or mo.Axes((), ())
    return spec.role, [{i - before for i in some} for some in (axes.fan_in, axes.fan_out, axes.taps)], axes.groups


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
@pytest.mark.parametrize("name", [name for name in MODELS if name not in IN_GROUPS + ENDS_WITH_MEMBERS])
def test_members_of_an_ensemble_are_told_from_features_or_asked_for(name, shared):
    model = ZOO[name]()

    def stacked(tree):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((3, *x.shape), x.dtype), tree)

    apply = jax.vmap(model.apply, (0, *(None if shared else 0 for _ in model.inputs)))
    found = infer(model, apply, stacked(model.params), model.inputs if shared else stacked(model.inputs))
    for path, spec in inferred(name).items():
        is_scalar = spec.axes is not None and not any((spec.axes.fan_in, spec.axes.fan_out, spec.axes.taps))
        is_asked = found[path].role == "unknown" or "guess" in (spec.confidence, found[path].confidence)
        # a gain is moved by signs, whatever counts members
        if spec.role not in ("unknown", "unused", "gain") and not (is_scalar or is_asked):
            assert told(found[path], 1) == told(spec), path


def random_like(tree, seed: int):
    """Values for shapes, cast by NumPy so that nothing is compiled: integers small enough to index any table."""
    rng = np.random.default_rng(seed)

    def draw(x):
        if jnp.issubdtype(x.dtype, jnp.integer):
            return jax.device_put(rng.integers(0, 4, x.shape).astype(x.dtype))
        return jax.device_put((rng.normal(size=x.shape) * 0.5).astype(x.dtype))

    return jax.tree.map(draw, tree)
