"""Every way to use the package, in every situation that Optax's own optimizers work in.

A situation meets all ways, and a way all norms and constraints at once (`tests.transformations.WAYS`), so that what is
added to their tables is claimed here, too.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import modula_optax as mo
from tests.cases import enable_x64, kinds
from tests.transformations import HELD, MATRICES, SHAPE, WAYS, assert_close

every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
every_transformation = pytest.mark.parametrize(
    "way",
    [way for way in WAYS.values() if way.transformation],
    ids=[name for name in WAYS if WAYS[name].transformation],
)

# a way is compiled once for all situations that it is compared in
compiled = functools.cache(jax.jit)


# --- derivatives


@every_way
def test_derivatives_are_those_that_finite_differences_show(way):
    with enable_x64(True):
        at = (way.parameters(0, jnp.float64), way.parameters(1, jnp.float64), jnp.asarray(0.05, jnp.float64))
        along = (way.parameters(2, jnp.float64), way.parameters(3, jnp.float64), jnp.asarray(1.0, jnp.float64))

        def sums(*arguments):
            return {name: jnp.sum(jnp.cos(leaf)) for name, leaf in way.call(*arguments).items()}

        @jax.jit
        def forwards(h):
            return jax.jvp(sums, jax.tree.map(lambda x, d: x + h * d, at, along), along)

        @jax.jit
        def backwards(*arguments):
            return jax.grad(lambda *arguments: sum(sums(*arguments).values()), argnums=(0, 1, 2))(*arguments)

        (after, _), (before, _), (_, slopes) = map(forwards, (1e-6, -1e-6, 0.0))
        for name, slope in slopes.items():
            np.testing.assert_allclose(slope, (after[name] - before[name]) / 2e-6, rtol=1e-4, atol=1e-6, err_msg=name)
        pairs = zip(jax.tree.leaves(backwards(*at)), jax.tree.leaves(along), strict=True)
        np.testing.assert_allclose(sum(jnp.vdot(*pair) for pair in pairs), sum(slopes.values()), rtol=1e-6, atol=1e-8)
        # where a root or a length has no derivative, they are finite all the same
        nothing = jax.tree.map(jnp.zeros_like, at)
        for zeros in (nothing, (at[0], *nothing[1:]), (nothing[0], *at[1:])):
            for path, g in jax.tree.leaves_with_path(backwards(*zeros)):
                assert jnp.all(jnp.isfinite(g)), jax.tree_util.keystr(path)


def many(layers, names):
    """Stacks of small matrices that take several turns."""
    rng = np.random.default_rng(0)
    return {name: jnp.asarray(rng.standard_normal((layers, *SHAPE)), jnp.float64) for name in names}


def test_derivatives_go_through_several_turns():
    specs = {name: HELD[name] for name in ("UnitSphere", "Orthogonal")}
    with enable_x64(True):
        params = many(2048, specs)
        grads = jax.tree.map(jnp.cos, params)

        @jax.jit
        def loss(rate, params, grads):
            updates, _ = (tx := mo.modular(rate, specs)).update(grads, tx.init(params), params)
            return jax.tree.map(lambda p, u: jnp.mean((p + u) ** 4, axis=(1, 2)), params, updates)

        def total(rate, params, grads):
            return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(loss(rate, params, grads)))

        by_rate, by_grads = jax.jit(jax.grad(total, argnums=(0, 2)))(0.05, params, grads)
        numeric = (total(0.05 + 1e-6, params, grads) - total(0.05 - 1e-6, params, grads)) / 2e-6
        np.testing.assert_allclose(by_rate, numeric, rtol=1e-5)
        # the last layer, which is in the last turn, as alone
        last = lambda tree: jax.tree.map(lambda x: x[-1:], tree)  # noqa: E731
        alone = jax.jit(jax.grad(total, argnums=2))(0.05, last(params), last(grads))
        assert_close(last(by_grads), alone, atol=1e-9)


# --- members of an ensemble


def members_of(way, count):
    trees = [(way.parameters(i), way.parameters(10 + i)) for i in range(count)]
    return jax.tree.map(lambda *x: jnp.stack(x), *trees), trees


@pytest.fixture(scope="module", params=WAYS)
def alone(request):
    """A way, and what it gives for each of four members by itself."""
    way = WAYS[request.param]
    together, trees = members_of(way, 4)
    return way, together, jax.tree.map(lambda *x: jnp.stack(x), *(compiled(way.call)(*tree, 0.05) for tree in trees))


def test_members_of_an_ensemble_are_as_alone(alone):
    way, (params, grads), expected = alone
    assert_close(jax.jit(jax.vmap(lambda p, g: way.call(p, g, 0.05)))(params, grads), expected, atol=2e-5)


@pytest.mark.parametrize(
    ("layout", "kind"),
    [
        ("everywhere", AxisType.Auto),
        ("everywhere", AxisType.Explicit),
        ("along an axis", AxisType.Auto),
        ("along an axis", AxisType.Explicit),
        # JAX refuses spmd_axis_name where the axis is in the arrays' types already
        ("along an axis that vmap knows", AxisType.Auto),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_members_of_an_ensemble_are_as_alone_on_a_mesh(alone, layout, kind):
    way, (params, grads), expected = alone
    member = lambda p, g: way.call(p, g, 0.05)  # noqa: E731
    known = layout == "along an axis that vmap knows"
    mesh = jax.make_mesh((2, 4), ("members", "model"), axis_types=(kind,) * 2)
    with jax.set_mesh(mesh):
        placed = jax.device_put((params, grads), NamedSharding(mesh, P() if layout == "everywhere" else P("members")))
        got = jax.jit(jax.vmap(member, spmd_axis_name="members" if known else None))(*placed)
    assert_close(jax.device_get(got), expected, atol=2e-5)


# --- shard_map


@every_way
@pytest.mark.parametrize("different", [False, True], ids=["replicated", "different on each device"])
def test_inside_shard_map_with_its_checks(way, different):
    params, grads = way.parameters(0), way.parameters(1)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    spec = P("data") if different else P()
    twice = (lambda tree: jax.tree.map(lambda x: jnp.stack([x, x]), tree)) if different else (lambda tree: tree)
    own = (lambda tree: jax.tree.map(lambda x: x[0], tree)) if different else (lambda tree: tree)

    def on_device(params, grads):
        result = way.call(own(params), own(grads), 0.05)
        return jax.tree.map(lambda x: x[None], result) if different else result

    inside = jax.shard_map(on_device, mesh=mesh, in_specs=spec, out_specs=spec)
    expected = compiled(way.call)(params, grads, 0.05)
    assert_close(jax.device_get(jax.jit(inside)(twice(params), twice(grads))), jax.device_get(twice(expected)), 2e-5)


@every_transformation
def test_states_vary_from_the_beginning_inside_shard_map(way):
    """So that they can be carried through a loop."""
    tx = way.transformation(0.05)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])

    def on_device(params, grads):
        params, grads = jax.tree.map(lambda x: x[0], (params, grads))

        def step(carry, _):
            params, state = carry
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), length=2)
        return jax.tree.map(lambda x: x[None], params)

    both = jax.tree.map(lambda x: jnp.stack([x, x]), (way.parameters(0), way.parameters(1)))
    jax.eval_shape(jax.shard_map(on_device, mesh=mesh, in_specs=P("data"), out_specs=P("data")), *both)


# --- states made of shapes


@functools.cache
def training(transformation):
    tx = transformation(0.05)
    return tx, jax.jit(lambda state, p, g: optax.apply_updates(p, tx.update(g, state, p)[0]))


@every_transformation
@pytest.mark.parametrize("kind", [None, AxisType.Auto, AxisType.Explicit], ids=["alone", "auto", "explicit"])
def test_a_state_made_of_shapes_trains_as_one_made_of_parameters(way, kind):
    tx, train = training(way.transformation)
    params, grads = way.parameters(0), way.parameters(1)
    expected = train(tx.init(params), params, grads)
    if kind is None:
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
        got = train(tx.init(shapes), params, grads)
    else:
        mesh = jax.make_mesh((5, 1), ("rows", "columns"), axis_types=(kind,) * 2, devices=jax.devices()[:5])
        with jax.set_mesh(mesh):
            params, grads = jax.device_put((params, grads), NamedSharding(mesh, P("rows", "columns")))
            shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), params)
            state = tx.init(shapes)
            got = train(state, params, grads)
    assert_close(jax.device_get(got), jax.device_get(expected), atol=1e-5)
    assert (
        kinds(jax.eval_shape(tx.init, way.parameters(0))) == kinds(tx.init(way.parameters(0))) == kinds(tx.init(shapes))
    )


# --- modes of JAX


@every_way
def test_no_rank_and_no_dtype_is_promoted_and_no_tracer_leaks(way):
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"), jax.checking_leaks():
        jax.eval_shape(way.call, way.parameters(0), way.parameters(1), 0.05)


@pytest.mark.parametrize("alias", [mo.modular, mo.whitened, mo.scion])
def test_the_default_fallback_promotes_nothing_where_nothing_is_left_to_it(alias):
    tx, params = alias(0.1, MATRICES), WAYS["muon"].parameters(0)
    with jax.numpy_dtype_promotion("strict"):
        jax.eval_shape(lambda p: tx.update(p, tx.init(p), p), params)


@every_way
@pytest.mark.parametrize("weights", [jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64])
@pytest.mark.parametrize("gradients", [jnp.float16, jnp.float64])
def test_gradients_and_weights_of_different_widths(way, weights, gradients):
    with enable_x64(True):
        params = way.parameters(0, weights)
        result = jax.eval_shape(way.call, params, way.parameters(1, gradients), 0.05)
        assert jax.tree.map(lambda x: x.dtype, result) == jax.tree.map(lambda x: x.dtype, params)


@every_way
def test_nothing_is_nan_or_infinite_on_the_way(way):
    with jax.debug_nans(True), jax.debug_infs(True):
        params, grads = way.parameters(0), way.parameters(1)
        for some in (grads, jax.tree.map(jnp.zeros_like, grads)):
            jax.block_until_ready(way.call(params, some, 0.05))


@every_way
def test_without_compilation_it_is_the_same(way):
    params, grads = way.parameters(0), way.parameters(1)
    with jax.disable_jit():
        got = way.call(params, grads, 0.05)
    assert_close(got, compiled(way.call)(params, grads, 0.05), atol=2e-5)
