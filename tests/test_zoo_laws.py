"""Laws of inference over the zoo: what a model is part of changes nothing, or is asked for; never silently."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.flatten_util import ravel_pytree

from modula_optax._paths import flatten_with_paths
from tests.test_zoo import MODELS, infer, inferred
from tests.zoo import ZOO
from tests.zoo._model import array

# those that each law was broken by once, and some of other kinds
CHOSEN = (
    *(
        "equinox.unet",
        "linen.mobilenet",
        "linen.rarer_layers",
        "linen.vit",
        "nnx.gpt_tied",
        "plain.mamba",
        "plain.vq_vae",
    ),
    *("plain.weight_norm", "plain.lora_merged", "plain_copies.taps_in_turn", "plain_further.tokens_of_numbers"),
    *(
        "plain_members.ensemble_of_critics",
        "plain_members.gated_unit_of_picked_kernels",
        "plain_nets.graph_isomorphism",
    ),
    *("plain_papers.dora", "plain_published.ensemble_with_data_of_their_own", "plain_varied.batch_ensemble"),
)


def is_real(x) -> bool:
    return jnp.issubdtype(x.dtype, jnp.inexact)


def sized(tree, change):
    """The same tree with other shapes of its real leaves."""
    return jax.tree.map(lambda x: array(*change(x.shape), dtype=x.dtype) if is_real(x) else x, tree)


def loss(outputs):
    return sum(jnp.sum(jnp.abs(x) ** 2).astype(jnp.float32) for x in jax.tree.leaves(outputs) if is_real(x))


def branches(model):
    def apply(params, chosen, *inputs):
        return lax.switch(chosen, [model.apply] * 3, params, *inputs)

    return apply, model.params, (array(dtype=jnp.int32), *model.inputs), ""


def trained_inside(model):
    """Twice a step down the gradient, from what the parameters are."""

    def apply(params, *inputs):
        def step(params, _):
            gradients = jax.grad(lambda params: loss(model.apply(params, *inputs)))(params)
            return jax.tree.map(lambda w, g: w - 0.1 * g, params, gradients), None

        return model.apply(lax.scan(step, params, None, length=2)[0], *inputs)

    return apply, model.params, model.inputs, ""


def one_vector(model):
    def apply(params, *inputs):
        vector, cut = ravel_pytree(params)
        return model.apply(cut(vector), *inputs)

    return apply, model.params, model.inputs, ""


def one_of_a_stack(model):
    """Two copies, each picked out of a stack; axes are counted from the last here."""

    def apply(params, *inputs):
        return [model.apply(jax.tree.map(lambda x: x[i], params), *inputs) for i in range(2)]  # noqa: B023

    return apply, jax.tree.map(lambda x: array(2, *x.shape, dtype=x.dtype), model.params), model.inputs, ""


def one_of_a_stack_by_an_index(model):
    def apply(params, chosen, *inputs):
        return model.apply(jax.tree.map(lambda x: x[chosen], params), *inputs)

    stack = jax.tree.map(lambda x: array(3, *x.shape, dtype=x.dtype), model.params)
    return apply, stack, (array(dtype=jnp.int32), *model.inputs), ""


def halves(model):
    """Each parameter in two, cut along its last axis."""

    def cut(upper):
        return sized(
            model.params, lambda shape: (*shape[:-1], (shape[-1] + upper) // 2) if shape[-1:] > (1,) else shape
        )

    def apply(params, *inputs):
        def joined(whole, a, b):
            return a if a.shape == whole.shape else jnp.concatenate([a, b], -1)

        return model.apply(jax.tree.map(joined, model.params, params["a"], params["b"]), *inputs)

    return apply, {"a": cut(0), "b": cut(1)}, model.inputs, "a/"


def cut_out_of_larger_ones(model):
    def apply(params, *inputs):
        cut = jax.tree.map(lambda x, larger: larger[tuple(map(slice, x.shape))], model.params, params)
        return model.apply(cut, *inputs)

    def larger(shape):
        return (*shape[:-1], shape[-1] + 2) if shape[-1:] > (1,) else shape

    return apply, sized(model.params, larger), model.inputs, ""


def with_adapters(model):
    """A product of two factors is added to whatever has two axes."""

    def factors(side):
        def factor(x):
            is_adapted = is_real(x) and len(x.shape) > 1
            return array(*((*x.shape[:-1], 2), (*x.shape[:-2], 2, x.shape[-1]))[side]) if is_adapted else array()

        return jax.tree.map(factor, model.params)

    def apply(params, *inputs):
        def adapt(w, a, b):
            return w + (a @ b).astype(w.dtype) if a.ndim > 1 else w

        return model.apply(jax.tree.map(adapt, params["w"], params["a"], params["b"]), *inputs)

    return apply, {"w": model.params, "a": factors(0), "b": factors(1)}, model.inputs, "w/"


def beside_its_derivative(model):
    """And how it changes along a constant direction, where its inputs are numbers."""

    def apply(params, *inputs):
        if not all(map(is_real, jax.tree.leaves(inputs))):
            return model.apply(params, *inputs)
        along = jax.tree.map(jnp.ones_like, inputs)
        return jax.jvp(functools.partial(model.apply, params), inputs, along)

    return apply, model.params, model.inputs, ""


def in_another_order(model):
    """The last entries of every axis come first, by an index."""

    def apply(params, *inputs):
        def reorder(x):
            for axis in range(x.ndim):
                x = jnp.take(x, np.arange(x.shape[axis])[::-1], axis)
            return x

        return model.apply(jax.tree.map(reorder, params), *inputs)

    return apply, model.params, model.inputs, ""


def behind_a_layer(model):
    """A layer made the features of the inputs, where these are numbers."""
    inputs, treedef = jax.tree.flatten(model.inputs)

    def apply(params, *inputs):
        made = (x @ w if w is not None else x for x, w in zip(jax.tree.leaves(inputs), params["first"], strict=True))
        return model.apply(params["w"], *treedef.unflatten(made))

    first = [array(*2 * x.shape[-1:]) if is_real(x) and x.shape else None for x in inputs]
    return apply, {"w": model.params, "first": first}, model.inputs, "w/"


def masked(model):
    """Data say which entries of parameters there are, but for single numbers."""

    def apply(params, masks, *inputs):
        return model.apply(jax.tree.map(lambda w, m: w * m if is_real(w) and w.ndim else w, params, masks), *inputs)

    return apply, model.params, (model.params, *model.inputs), ""


def is_matrix(x) -> bool:
    return is_real(x) and sum(n > 1 for n in x.shape) > 1


def held_where_it_was(model):
    """The loss minds how far parameters are from others, which are given."""

    def apply(params, before, *inputs):
        return loss(model.apply(params, *inputs)) + loss(jax.tree.map(lambda w, v: w - v, params, before))

    return apply, model.params, (model.params, *model.inputs), ""


def divided_by_spectral_norms(model):
    """Of matrices with all axes but the last as rows, by power iterations."""

    def divided(w):
        if not is_matrix(w):
            return w
        rows = w.reshape(-1, w.shape[-1])
        v = jnp.ones(rows.shape[-1], w.dtype)
        for _ in range(2):
            u = rows @ v
            v = (u / jnp.linalg.norm(u)) @ rows
            v = v / jnp.linalg.norm(v)
        return w / jnp.linalg.norm(rows @ v)

    return lambda params, *inputs: model.apply(jax.tree.map(divided, params), *inputs), model.params, model.inputs, ""


def printed(model):
    """Parameters and outputs are shown, by operations that compute nothing."""

    def apply(params, *inputs):
        jax.debug.print("{}", params)
        jax.tree.map(lambda w: jax.debug.callback(print, w), params)
        outputs = model.apply(params, *inputs)
        jax.debug.print("{}", outputs)
        return outputs

    return apply, model.params, model.inputs, ""


LAWS = (
    *(branches, trained_inside, one_vector, one_of_a_stack, one_of_a_stack_by_an_index, halves),
    *(cut_out_of_larger_ones, with_adapters),
    *(beside_its_derivative, in_another_order, behind_a_layer, masked, held_where_it_was, divided_by_spectral_norms),
    printed,
)
WITHOUT = {
    # no gradient comes back through its loop
    (trained_inside, "plain.cond_and_while"),
    (trained_inside, "plain_tables.adaptive_time"),
    # an axis of one entry is lost where halves are joined, or a product is added, before the whole is flattened
    (halves, "plain_members.ensemble_of_convolutions"),
    (halves, "plain_orders.field_of_one_coordinate_as_a_vector"),
    (with_adapters, "plain_orders.field_of_one_coordinate_as_a_vector"),
    # no layer makes a mask
    (behind_a_layer, "plain_papers.weights_dropped_at_random"),
    # vectors that are scaled before a softmax, or a sum of their own, look like gains of the only sample
    (masked, "plain_agents.ensemble_of_dynamics"),
    (masked, "plain_further.discretised_state_space"),
    (masked, "plain_hybrids.gpt_oss"),
    (masked, "plain_orders.bias_shared_by_several_outputs"),
    (masked, "plain_orders.vectors_in_another_order"),
    (masked, "plain_papers.heads_of_torch_with_sinks"),
    (masked, "plain_sequences.s5"),
    # vectors, or numbers, that an index looks up are rows of tables
    (one_of_a_stack_by_an_index, "plain.linear_regression"),
    (one_of_a_stack_by_an_index, "plain.linear_written_out"),
    (one_of_a_stack_by_an_index, "plain_papers.knowledge_graph"),
}


def told(spec, *shapes):
    """The role, and those axes, from the last, that have more than one entry in all shapes.

    One row is a bias; rows looked up in order are those of positions.
    """
    axes = [] if spec.axes is None else [spec.axes.fan_in, spec.axes.fan_out, spec.axes.taps]
    proper = {-i for i in range(1, 1 + min(map(len, shapes))) if all(shape[-i] > 1 for shape in shapes)}
    found = [{i - len(shapes[0]) for i in some} & proper for some in axes]
    role = "positional" if spec.role == "embedding" else spec.role
    return "bias" if role == "positional" and not found[0] else role, found


@pytest.mark.long
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_what_a_model_is_part_of_changes_no_role_silently(law, long):
    wrong = []
    for name in (name for name in (MODELS if long else CHOSEN) if (law, name) not in WITHOUT):
        model = ZOO[name]()
        apply, params, inputs, prefix = law(model)
        found = infer(model, apply, params, inputs)
        before, after = (
            {path: np.shape(x) for path, x in flatten_with_paths(tree)[0]} for tree in (model.params, params)
        )
        for path, spec in inferred(name).items():
            its = found[prefix + path]
            is_asked = {"unknown", "unused"} & {spec.role, its.role} or "guess" in (spec.confidence, its.confidence)
            shapes = before[path], after[prefix + path]
            expected, got = told(spec, *shapes), told(its, *reversed(shapes))
            if not is_asked and got != expected:
                wrong.append((name, path, expected, got))
    assert not wrong
