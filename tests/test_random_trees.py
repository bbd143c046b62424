"""Whatever the nesting, the shapes, the dtypes and the specs: the invariants hold, and errors are ours."""

import re
import traceback
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import modula_optax as mo
from tests.cases import enable_x64
from tests.trees import (
    KEYS,
    SETS,
    any_parameters,
    arrays_of,
    fitting_parameters,
    shapes_of,
    specs_of,
    trees,
)

pytestmark = pytest.mark.long
PACKAGE = Path(mo.__file__).parent
seeds = st.integers(0, 2**16)
# half precision rounds what was exact in float32
ROUNDING = {jnp.float64: 1e-5, jnp.float32: 1e-4, jnp.bfloat16: 2e-2, jnp.float16: 2e-3}
# how far a direction may be from norm one: what four steps, six steps and power iteration leave
SHORT = {mo.Spectral(): 0.001, mo.Spectral("six-step"): 0.005, mo.SpectralNormalized(): 0.1}


def kinds(tree):
    return jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), tree)


def beside(tree, *others):
    """Each parameter of a tree, and what stands in its place in the others, as numbers that NumPy can compare."""
    structure = jax.tree.structure(tree)
    found = zip(*map(structure.flatten_up_to, others), strict=True)
    return [
        (p, *(as_float(x) if isinstance(x, jax.Array) else x for x in row))
        for p, row in zip(jax.tree.leaves(tree), found, strict=True)
    ]


def as_float(x):
    return np.asarray(x, np.float64)


def assert_refused_by_name(error, tree):
    assert Path(traceback.extract_tb(error.__traceback__)[-1].filename).is_relative_to(PACKAGE), error
    named = {line.strip().split("  ")[0] for line in str(error).splitlines()[1:]}
    paths = {mo_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_bare)}
    assert named & paths, (error, paths)


def is_bare(node):
    return not jax.tree.leaves(node)


def mo_path(path):
    keys = [str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", None)))).strip("/") for key in path]
    if len(path) > 1 and path[-1] == jax.tree_util.GetAttrKey("value"):
        keys.pop()
    return "/".join(keys) or "(root)"


TRANSFORMATIONS = {
    "dualize": mo.dualize,
    "modular": lambda specs: mo.modular(0.1, specs),
    "scion": lambda specs: mo.scion(0.1, specs, constrained=True),
    "keep_params_projected": lambda specs: mo.keep_params_projected(specs, learning_rate=0.1),
}
FALLBACK = optax.adam(1e-3)  # the default of both
ALIASES = ("modular", "scion")
MEASURES = {"leaf_norms": mo.leaf_norms, "modular_norm": mo.modular_norm, "dual_norm": mo.dual_norm}


def fallen_back(x):
    """What an update is like: Adam makes floats of integers, which only `optax.apply_updates` casts back."""
    if jnp.issubdtype(x.dtype, jnp.inexact):
        return x
    return jax.eval_shape(FALLBACK.update, x, jax.eval_shape(FALLBACK.init, x))[0]


def test_integers_go_to_the_fallback_of_an_alias():
    x, spec = jax.ShapeDtypeStruct((), jnp.int32), mo.NormSpec(mo.Unnormed())
    for name in ALIASES:
        tx = TRANSFORMATIONS[name](spec)
        updates, _ = jax.eval_shape(tx.update, x, jax.eval_shape(tx.init, x), x)
        assert kinds(updates) == kinds(fallen_back(x))
        assert kinds(jax.eval_shape(optax.apply_updates, x, updates)) == kinds(x)


@given(trees(any_parameters(), KEYS), st.sampled_from((*TRANSFORMATIONS, *MEASURES, "project")))
def test_any_tree_is_refused_by_name_or_keeps_its_structure(tree, name):
    assume(tree is not None)  # which would say that parameters are not passed
    shapes, specs = shapes_of(tree), specs_of(tree)
    with enable_x64(True):
        try:
            table = mo.summarize(specs, shapes)
        except ValueError as error:
            assert_refused_by_name(error, tree)
            return
        # nothing is let through that does not fit
        parameters = jax.tree.leaves(tree)
        assert all(p.fits for p in parameters)
        # numbered layers that agree share a row, which says how many they are
        counts = [re.search(r" x(\d+)$", path) for path, *_ in table.rows[1:]]
        assert sum(int(count[1]) if count else 1 for count in counts) == len(parameters)
        if name in TRANSFORMATIONS:
            tx = TRANSFORMATIONS[name](specs)
            state = jax.eval_shape(tx.init, shapes)
            updates, after = jax.eval_shape(tx.update, shapes, state, shapes)
            expected = jax.tree.map(fallen_back, shapes) if name in ALIASES else shapes
            assert kinds(updates) == kinds(expected)
            assert kinds(after) == kinds(state)
        elif name in MEASURES:
            norms = jax.tree.leaves(jax.eval_shape(lambda params: MEASURES[name](params, specs), shapes))
            assert {norm.dtype for norm in norms} <= {jnp.dtype(jnp.float32), jnp.dtype(jnp.float64)}
        else:
            assert kinds(jax.eval_shape(lambda params: mo.project(params, specs), shapes)) == kinds(shapes)


@given(trees(fitting_parameters()), seeds)
def test_directions_of_any_tree_are_of_norm_one_and_steepest(tree, seed):
    with enable_x64(True):
        specs, grads = specs_of(tree), arrays_of(tree, seed)
        directions, _ = mo.dualize(specs).update(grads, optax.EmptyState())
        assert kinds(directions) == kinds(grads)
        slope = 0.0
        for p, g, u, norm in beside(tree, grads, directions, mo.leaf_norms(directions, specs)):
            if norm is None:
                np.testing.assert_array_equal(u, g)
                continue
            slack = ROUNDING[p.dtype] + SHORT.get(p.spec.norm, 2e-4)
            np.testing.assert_allclose(norm, p.spec.target, rtol=slack)
            slope += np.sum(g * u)
        steepest = float(mo.dual_norm(grads, specs))
        assert slope <= 1.02 * steepest
        if all(p.spec.norm != mo.SpectralNormalized() for p in jax.tree.leaves(tree)):
            # random matrices have few singular values that four steps cannot lift
            assert slope >= 0.9 * steepest


@given(trees(fitting_parameters()), seeds, st.integers(-4, 4), st.data())
def test_a_parameter_moves_as_if_it_were_alone_at_every_scale(tree, seed, exponent, data):
    with enable_x64(True):
        specs, structure = specs_of(tree), jax.tree.structure(tree)
        masked = data.draw(st.lists(st.booleans(), min_size=structure.num_leaves, max_size=structure.num_leaves))
        grads = [
            optax.MaskedNode() if hidden else g
            for g, hidden in zip(jax.tree.leaves(arrays_of(tree, seed)), masked, strict=True)
        ]
        tx = mo.dualize(specs)
        directions, _ = tx.update(structure.unflatten(grads), optax.EmptyState())
        for p, g, u in zip(jax.tree.leaves(tree), grads, structure.flatten_up_to(directions), strict=True):
            if isinstance(g, optax.MaskedNode):
                assert u == g
            elif p.spec.is_normed:
                alone, _ = mo.dualize(p.spec).update(g * jnp.asarray(2.0**exponent, g.dtype), optax.EmptyState())
                atol = 10 * ROUNDING[p.dtype] * max(1.0, p.spec.target)
                np.testing.assert_allclose(as_float(u), as_float(alone), atol=atol)


@given(trees(fitting_parameters()))
def test_zeros_of_any_tree_stay_where_they_are(tree):
    # in place of specs, None is a mistake that is told
    assume(tree is not None)
    with enable_x64(True):
        zeros = jax.tree.map(jnp.zeros_like, shapes_of(tree))
        directions, _ = mo.dualize(specs_of(tree)).update(zeros, optax.EmptyState())
        assert not any(u.any() for u in jax.tree.leaves(directions))
        assert mo.dual_norm(zeros, specs_of(tree)) == 0.0


@given(trees(fitting_parameters(SETS)), seeds)
def test_projection_of_any_tree_lands_in_its_sets_and_stays(tree, seed):
    with enable_x64(True):
        specs, params = specs_of(tree), arrays_of(tree, seed)
        once = mo.project(params, specs)
        twice = mo.project(once, specs)
        assert kinds(once) == kinds(params)
        for p, before, w, again, norm in beside(tree, params, once, twice, mo.leaf_norms(once, specs)):
            slack = ROUNDING[p.dtype]
            assert np.isfinite(w).all()
            np.testing.assert_allclose(again, w, rtol=4 * slack, atol=4 * slack)
            match p.spec.constraint:
                case None:
                    np.testing.assert_array_equal(w, before)
                case mo.UnitSphere():
                    np.testing.assert_allclose(norm, 1.0, rtol=slack)
                case mo.NormBall(radius):
                    assert np.all(norm <= radius * (1 + slack))
