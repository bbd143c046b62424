"""Several devices: the same results, in the same shardings, each matrix orthogonalized on one device, once."""

import contextlib
import re
import sys
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import modula_optax as mo
from tests.cases import compilations, lowered_for_accelerators, random_like, untyped, with_spectrum

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from counting import counted

SHAPES = {"qkv": (32, 96), "out": (32, 32), "up": (32, 128), "down": (128, 32), "stacked": (3, 32, 64), "bias": (128,)}
SPECS = {name: mo.NormSpec(mo.RMS() if len(shape) == 1 else mo.Spectral()) for name, shape in SHAPES.items()}
MESHES = {"line": ((8,), ("data",)), "square": ((4, 2), ("data", "model"))}
LAYOUTS = {
    "replicated": ("line", P()),
    "fully sharded": ("line", P("data", None)),
    "tensor parallel": ("square", P(None, "model")),
    "both": ("square", P("data", "model")),
}


def gradients(key, layers=2):
    return [
        {
            name: random_like(jax.random.fold_in(key, 10 * layer + i), shape)
            for i, (name, shape) in enumerate(SHAPES.items())
        }
        for layer in range(layers)
    ]


def make_mesh(layout, kind):
    shape, names = MESHES[LAYOUTS[layout][0]]
    return jax.make_mesh(shape, names, axis_types=(kind,) * len(names))


def laid_out(tree, mesh, spec):
    """Matrices in the layout, whatever they are stacks of; vectors on every device."""

    def place(x):
        axes = P(*[None] * (x.ndim - 2), *spec) if x.ndim > 1 and spec else P()
        return jax.device_put(x, NamedSharding(mesh, axes))

    return jax.tree.map(place, tree)


def collectives(compiled, outside_loops=False):
    text = compiled.as_text()
    text = text[text.index("\nENTRY") :] if outside_loops else text
    found = re.findall(r" (all-to-all|all-gather|all-reduce|collective-permute|reduce-scatter)(?:-start)?\(", text)
    return Counter(found)


@pytest.mark.optimized
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_eight_devices_give_what_one_gives_where_it_came_from(layout, kind, key):
    grads = gradients(key)
    specs = [SPECS] * len(grads)
    tx = mo.dualize(specs)
    alone, _ = jax.jit(tx.update)(grads, tx.init(grads))
    mesh = make_mesh(layout, kind)
    with jax.set_mesh(mesh):
        spread_out = laid_out(grads, mesh, LAYOUTS[layout][1])
        together, _ = jax.jit(tx.update)(spread_out, tx.init(spread_out))
        assert lowered_for_accelerators(tx.update, spread_out, tx.init(spread_out)).nr_devices == 8
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), together, alone)
    for after, before in zip(jax.tree.leaves(together), jax.tree.leaves(spread_out), strict=True):
        assert after.sharding.is_equivalent_to(before.sharding, before.ndim)


@pytest.mark.parametrize("layout", ["fully sharded", "both"])
def test_matrices_travel_in_one_exchange_for_each_shape_and_mesh_axis(layout, key):
    grads = gradients(key)
    tx = mo.dualize([SPECS] * len(grads))
    mesh = make_mesh(layout, AxisType.Auto)
    with jax.set_mesh(mesh):
        spread_out = laid_out(grads, mesh, LAYOUTS[layout][1])
        found = collectives(jax.jit(tx.update).lower(spread_out, tx.init(spread_out)).compile())
    shapes = len([name for name in SHAPES if name != "bias"])
    assert found == {"all-to-all": 2 * shapes * len(mesh.axis_names)}


def test_matrices_are_measured_after_one_exchange_for_each_shape_and_never_in_a_loop(key):
    tables = {"embed": mo.NormSpec(mo.Embedding()), "head": mo.NormSpec(mo.RowL2())}
    params = [
        layer | {"embed": random_like(key, (64, 32)), "head": random_like(key, (32, 64))} for layer in gradients(key)
    ]
    tx = mo.monitor([SPECS | tables] * len(params))
    mesh = make_mesh("fully sharded", AxisType.Auto)
    with jax.set_mesh(mesh):
        placed = laid_out(params, mesh, P("data", None))
        program = jax.jit(tx.update).lower(placed, tx.init(placed), placed).compile()
    found = collectives(program)
    assert found == collectives(program, outside_loops=True)
    shapes = len([name for name in SHAPES if name != "bias"])
    assert found["all-to-all"] == shapes
    # numbers come back from where matrices are, and directions of power iterations go on from tables
    assert found["all-gather"] <= shapes + len(tables)
    # of tables, entries are added up where they lie
    assert found["all-reduce"] <= 6 * len(tables)


def test_a_device_does_its_share_of_the_work(key):
    grads = gradients(key, layers=8)

    def flops(grads):
        tx = mo.dualize([SPECS] * len(grads))
        return counted(jax.jit(tx.update).lower(grads, tx.init(grads)).compile())["gigaflops"]

    alone = flops(grads)
    mesh = make_mesh("replicated", AxisType.Auto)
    with jax.set_mesh(mesh):
        assert flops(laid_out(grads, mesh, P())) < alone / 7


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_state_keeps_its_shardings_and_training_compiles_as_often_as_with_sgd(layout, kind, key):
    def times(tx, params):
        @jax.jit
        def step(params, state, grads):
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        state = tx.init(params)
        shardings = [x.sharding for x in jax.tree.leaves((params, state))]
        with compilations("step") as found:
            for _ in range(3):
                params, state = step(params, state, params)
        for x, before in zip(jax.tree.leaves((params, state)), shardings, strict=True):
            assert x.ndim == 0 or x.sharding.is_equivalent_to(before, x.ndim)
        return len(found)

    params = gradients(key)
    mesh = make_mesh(layout, kind)
    with jax.set_mesh(mesh):
        params = laid_out(params, mesh, LAYOUTS[layout][1])
        ours = times(mo.modular(0.1, [SPECS] * 2), params)
        assert 0 < ours <= times(optax.sgd(0.1, momentum=0.9), params)


def test_only_the_axes_asked_for_are_spread_over(key):
    grads = gradients(key)
    mesh = make_mesh("both", AxisType.Auto)
    with jax.set_mesh(mesh):
        placed = laid_out(grads, mesh, P("data", "model"))
        tx = mo.dualize([SPECS] * 2, mesh_axes=("model",))
        got, _ = jax.jit(tx.update)(placed, tx.init(placed))
        alone, _ = jax.jit(mo.dualize([SPECS] * 2, mesh_axes=()).update)(placed, tx.init(placed))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), got, alone)
        with pytest.raises(ValueError, match=r"mesh_axes names \['tensor'\], but the axes .* are \['data', 'model'\]"):
            mo.dualize([SPECS] * 2, mesh_axes=("tensor",)).update(placed, tx.init(placed))


@pytest.mark.optimized
def test_inside_shard_map_every_device_does_what_it_holds(key):
    g = random_like(key, (8, 16, 24))
    tx = untyped(mo.dualize(mo.NormSpec(mo.Spectral())))
    mesh = make_mesh("replicated", AxisType.Auto)
    with jax.set_mesh(mesh):
        update = jax.shard_map(lambda g: tx.update(g, optax.EmptyState())[0], in_specs=P("data"), out_specs=P("data"))
        np.testing.assert_allclose(jax.jit(update)(g), tx.update(g, optax.EmptyState())[0], atol=1e-5)


def test_without_jit_too(key):
    grads = gradients(key, layers=1)
    tx = mo.dualize([SPECS])
    alone, _ = tx.update(grads, tx.init(grads))
    mesh = make_mesh("fully sharded", AxisType.Auto)
    with jax.set_mesh(mesh):
        placed = laid_out(grads, mesh, P("data", None))
        together, _ = tx.update(placed, tx.init(placed))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), together, alone)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def test_sharded_heads_taps_groups_and_blocks(kind, key):
    """Axes that are merged on the way to a matrix, or cut into blocks of several sizes, may be sharded."""
    shapes = {"heads": (32, 8, 16), "merged": (8, 4, 32), "conv": (3, 3, 16, 32), "fused": (32, 48)}
    specs = {
        "heads": mo.NormSpec(mo.Spectral(), mo.Axes(fan_in=0, fan_out=(1, 2))),
        "merged": mo.NormSpec(mo.Spectral(), mo.Axes(fan_in=(0, 1), fan_out=2)),
        "conv": mo.NormSpec(mo.Spectral(), mo.Axes(fan_in=2, fan_out=3, taps=(0, 1))),
        "fused": mo.NormSpec(mo.Blocks(mo.Spectral(), (32, 8, 8))),
    }
    layouts = {"heads": P(None, "data", None), "merged": P("data", None, None), "conv": P(None, None, None, "data")}
    layouts["fused"] = P(None, "data")
    grads = {name: random_like(key, shape) for name, shape in shapes.items()}
    tx = mo.dualize(specs)
    alone, _ = untyped(tx).update(grads, tx.init(grads))
    mesh = make_mesh("replicated", kind)
    with jax.set_mesh(mesh):
        placed = {name: jax.device_put(g, NamedSharding(mesh, layouts[name])) for name, g in grads.items()}
        together, _ = jax.jit(tx.update)(placed, tx.init(placed))
    for name, g in alone.items():
        np.testing.assert_allclose(together[name], g, atol=1e-5)
        assert together[name].sharding.is_equivalent_to(placed[name].sharding, g.ndim)


KEPT = {
    "qkv": mo.NormSpec(mo.Spectral(), constraint=mo.SpectralCap(0.5)),
    "out": mo.NormSpec(mo.Spectral(), constraint=mo.Stiefel()),
    "up": mo.NormSpec(mo.Spectral(), constraint=mo.Hammer(2.0)),
    "down": mo.NormSpec(mo.Spectral(), constraint=mo.SoftCap(0.5)),
    "stacked": mo.NormSpec(mo.Spectral(), constraint=mo.UnitSphere()),
    "bias": mo.NormSpec(mo.RMS(), constraint=mo.FixedNorm()),
}


@pytest.mark.optimized
@pytest.mark.parametrize(("layout", "kind"), [("fully sharded", AxisType.Auto), ("both", AxisType.Explicit)])
def test_constraints_are_kept_on_eight_devices_as_on_one(layout, kind, key):
    specs = [KEPT] * 2
    tx = optax.chain(mo.dualize(specs), optax.scale(-0.1), mo.keep_params_projected(specs, learning_rate=0.1))

    @jax.jit
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    def train(params, grads):
        params = jax.jit(lambda params: mo.project(params, specs))(params)
        state = tx.init(params)
        for _ in range(2):
            params, state = step(params, state, grads)
        return params

    params, grads = gradients(key), gradients(jax.random.key(1))
    alone = train(params, grads)
    mesh = make_mesh(layout, kind)
    with jax.set_mesh(mesh):
        params, grads = (laid_out(tree, mesh, LAYOUTS[layout][1]) for tree in (params, grads))
        together = train(params, grads)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), together, alone)
    for after, before in zip(jax.tree.leaves(together), jax.tree.leaves(params), strict=True):
        assert after.sharding.is_equivalent_to(before.sharding, before.ndim)


def test_a_device_needs_less_than_a_quarter_of_what_the_matrices_take_and_gives_the_same(key):
    """More than is exchanged at a time, so that it is done in rounds."""
    sizes = {"qkv": (256, 768), "out": (256, 256), "up": (256, 1024), "down": (1024, 256)}
    grads = {f"{name}{i}": random_like(key, size) for name, size in sizes.items() for i in range(8)}
    tx = mo.modular(0.02, mo.NormSpec(mo.Spectral()))

    def updated(grads):
        state = tx.init(grads)
        program = jax.jit(tx.update).lower(grads, state, grads).compile()
        return program(grads, state, grads)[0], untyped(program.memory_analysis()).temp_size_in_bytes

    alone, _ = updated(grads)
    mesh = make_mesh("fully sharded", AxisType.Auto)
    with jax.set_mesh(mesh):
        together, memory = updated(laid_out(grads, mesh, P("data", None)))
    assert memory < sum(g.nbytes for g in grads.values()) / 4
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), together, alone)


@pytest.mark.optimized
@pytest.mark.parametrize("layout", ["replicated", "fully sharded"])
def test_in_bfloat16_half_the_bytes_are_exchanged_and_no_direction_is_too_long(layout, key):
    shape = (64, 256)
    spectra = [None, np.ones(64), np.logspace(0, -4, 64), 1 / np.arange(1, 65)]
    grads = [jax.random.normal(key, shape) if s is None else with_spectrum(1, shape, s)[0] for s in spectra]
    # the entries of its polar factor are all rounded the same way
    signs = np.array([[1.0]])
    for _ in range(6):
        signs = np.block([[signs, signs], [signs, -signs]])
    grads.append(np.concatenate([signs] * 4, axis=1))
    grads = [np.asarray(g, np.float32).reshape(shape) for g in grads]
    mesh = make_mesh(layout, AxisType.Auto)
    sent = {}
    with jax.set_mesh(mesh):
        placed = laid_out(grads, mesh, LAYOUTS[layout][1])
        for exchange in (None, "bfloat16"):
            tx = mo.dualize(mo.NormSpec(mo.Spectral()), exchange=exchange)
            program = jax.jit(tx.update).lower(placed, tx.init(placed)).compile()
            sent[exchange] = counted(program)["megabytes"]
        directions, _ = program(placed, tx.init(placed))
    assert sent["bfloat16"] <= 0.51 * sent[None]
    for g, direction in zip(grads, directions, strict=True):
        direction, g = np.asarray(direction, np.float64) / 2, np.asarray(g, np.float64)
        largest = np.linalg.norm(direction, 2)
        assert largest <= 1
        assert np.sum(g * direction) >= 0.99 * largest * np.linalg.norm(g, "nuc")


def test_experts_that_lie_on_devices_of_their_own_stay_there(key):
    grads = {name: random_like(jax.random.fold_in(key, i), (2, 8, 32, 64)) for i, name in enumerate("ab")}
    grads["c"] = random_like(key, (16, 32, 64))
    tx = mo.dualize({"a": mo.NormSpec(mo.Spectral()), "b": mo.NormSpec(mo.Spectral()), "c": mo.NormSpec(mo.Sign())})
    alone, _ = jax.jit(tx.update)(grads, tx.init(grads))
    mesh = make_mesh("fully sharded", AxisType.Auto)
    with jax.set_mesh(mesh):
        placed = {
            name: jax.device_put(g, NamedSharding(mesh, P(*[None] * (g.ndim - 3), "data"))) for name, g in grads.items()
        }
        program = jax.jit(tx.update).lower(placed, tx.init(placed)).compile()
        together, _ = program(placed, tx.init(placed))
    assert not collectives(program)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), together, alone)
    assert together["a"].sharding.is_equivalent_to(placed["a"].sharding, 4)


def test_devices_that_are_not_used_are_mentioned(key):
    mesh = make_mesh("fully sharded", AxisType.Auto)
    params = laid_out({"w": random_like(key, (16, 24))}, mesh, P("data", None))
    tx = mo.modular(0.1, mo.NormSpec(mo.Spectral()))
    with pytest.warns(UserWarning, match=r"8 devices and no mesh is in force(?s:.*)with jax.set_mesh\(mesh\)"):
        tx.init(params)
    with jax.set_mesh(mesh):
        tx.init(params)
    mo.modular(0.1, mo.NormSpec(mo.Spectral()), mesh_axes=()).init(params)


HELD = {
    "w": mo.NormSpec(mo.Spectral(), constraint=mo.SpectralCap()),
    "stacked": mo.NormSpec(mo.Spectral(), constraint=mo.UnitSphere()),
    "table": mo.NormSpec(mo.Embedding()),
    "gain": mo.NormSpec(mo.Diagonal()),
}
LINKS = {
    "modular": mo.modular(0.1, HELD, mesh_axes=()),
    "whitened": mo.whitened(0.1, HELD, mesh_axes=()),
    "muon": mo.muon(0.1, mesh_axes=()),
    "monitor": mo.monitor(HELD, optax.sgd(0.1)),
    "output moments": mo.scale_by_output_moments(HELD),
    "cautious decay": mo.add_cautious_decay(HELD),
}
MEASURES = {
    "modular_norm": lambda tree: mo.modular_norm(tree, HELD),
    "dual_norm": lambda tree: mo.dual_norm(tree, HELD),
    "leaf_norms": lambda tree: mo.leaf_norms(tree, HELD),
    "project": lambda tree: mo.project(tree, HELD),
    "polar": lambda tree: mo.polar(tree["stacked"]),
}


def told_by_types(key):
    """Parameters on eight devices, which their types say; and the same on one."""
    shapes = {"w": (16, 24), "stacked": (3, 16, 24), "table": (24, 8), "gain": (16,)}
    params = {name: random_like(jax.random.fold_in(key, i), shape) for i, (name, shape) in enumerate(shapes.items())}
    mesh = make_mesh("fully sharded", AxisType.Explicit)
    return laid_out(params, mesh, P("data", None)), params


@pytest.mark.parametrize("link", LINKS)
def test_arrays_whose_types_tell_their_mesh_need_none_in_force(link, key):
    tx = LINKS[link]

    def stepped(params):
        updates, _ = jax.jit(tx.update)(params, tx.init(params), params)
        return updates

    told, alone = told_by_types(key)
    updates = stepped(told)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), updates, stepped(alone))
    assert jax.tree.map(jax.typeof, updates) == jax.tree.map(jax.typeof, told)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("in_force", [False, True], ids=["no mesh", "mesh"])
def test_what_lies_on_several_devices_is_measured_as_on_one(measure, in_force, key):
    told, alone = told_by_types(key)
    with jax.set_mesh(told["w"].sharding.mesh) if in_force else contextlib.nullcontext():
        found = jax.jit(MEASURES[measure])(told)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, MEASURES[measure](alone))


def test_another_exchange_is_refused():
    with pytest.raises(ValueError, match="Write 'bfloat16'"):
        mo.dualize(mo.NormSpec(mo.Spectral()), exchange="float8")


def test_an_update_sends_no_more_between_devices_than_without_a_metric():
    """A gradient goes to where its matrix is worked on, a direction comes back; also of five on eight devices."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    grads = {
        f"{name}{i}": np.ones(shape, np.float32)
        for i in range(5)
        for name, shape in {"a": (16, 16), "b": (16, 32)}.items()
    }

    def sent(tx):
        return counted(jax.jit(tx.update).lower(placed, tx.init(placed)).compile())["megabytes"]

    with jax.set_mesh(mesh):
        placed = jax.device_put(grads, NamedSharding(mesh, P("data", None)))
        plain, learned = (
            sent(alias(0.1, mo.NormSpec(mo.Spectral()), weight_decay=0.0)) for alias in (mo.modular, mo.whitened)
        )
    assert learned <= 1.2 * plain
