"""An oracle of orientation that traces nothing: directional finite differences of the output in every linear leaf.

A layer x W moves by x D if W moves by D = u v'. Its inputs see D along the fan-in, what follows along the fan-out. If
few different inputs meet W, the output responds to few combinations of u, but to as many of v as the network can tell
apart. Responses to a grid of u and v, stacked along u and along v, have these ranks; a layer that was taken for its
transpose has them exchanged.
"""

import dataclasses
import itertools
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import modula_optax as mo
from modula_optax._axes import from_canonical, to_canonical
from modula_optax._paths import flatten_with_paths
from tests.test_zoo import infer, random_like
from tests.zoo import ZOO, ZooModel

GRID = 4  # directions of the fan-in, and of the fan-out
ATOMS = 2  # of a stack, at most
SEEDS = (0, 1, 2)  # more than one where units happen to be dead
STEP = 1e-2
NOISE = 0.02  # of differences in single precision


class Probe(NamedTuple):
    """Values under which few different inputs meet a layer: inputs and tables have so many `kinds` of rows.

    Of the outputs those of one sample count, in these `rows`.
    """

    kinds: int
    samples_differ: bool
    rows: slice = slice(None)


# samples must differ where a normalisation runs over them, and rows where attention compares them
PROBES = (
    Probe(1, samples_differ=False),
    Probe(1, samples_differ=True),
    Probe(2, samples_differ=False, rows=slice(2)),
    Probe(2, samples_differ=True, rows=slice(2)),
    Probe(3, samples_differ=True, rows=slice(3)),
    # a query meets one row, but many keys
    Probe(99, samples_differ=True, rows=slice(1)),
    Probe(99, samples_differ=True, rows=slice(-1, None)),
)


def kinds_of(n: int, probe: Probe) -> np.ndarray:
    """The first of n rows is of one kind, all others of the last."""
    return np.minimum(np.arange(n), probe.kinds - 1)


def inputs_of(model: ZooModel, probe: Probe) -> Any:
    rng = np.random.default_rng(1)

    def draw(x):
        if not jnp.issubdtype(x.dtype, jnp.floating):
            kinds = kinds_of(x.shape[-1], probe) if x.shape else 1
            return jnp.asarray(np.broadcast_to(kinds, x.shape), x.dtype)
        *leading, width = x.shape or (1,)
        samples, positions = (leading[0], leading[1:]) if len(leading) > 1 else (1, leading)
        values = rng.normal(size=(samples, probe.kinds, width))
        values = values if probe.samples_differ else np.broadcast_to(values[:1], values.shape)
        return jnp.asarray(values[:, kinds_of(int(np.prod(positions)), probe)].reshape(x.shape), x.dtype)

    return jax.tree.map(draw, model.inputs)


def params_of(model: ZooModel, specs: dict[str, mo.NormSpec], probe: Probe, seed: int) -> Any:
    flat, treedef = flatten_with_paths(random_like(model.params, seed))

    def few_rows(x, spec):
        rows = to_canonical(x, spec.axes)
        return from_canonical(rows[..., kinds_of(rows.shape[-2], probe), :], spec.axes, x.shape)

    def is_table(path):
        return path in specs and specs[path].role in ("embedding", "positional")

    return treedef.unflatten([few_rows(x, specs[path]) if is_table(path) else x for path, x in flat])


def seen(outputs: list[jax.Array], probe: Probe) -> np.ndarray:
    """The entries of outputs [step, sample, row, ...] that count."""

    def few(y):
        y = y[:, slice(1) if probe.samples_differ else probe.rows] if y.ndim > 2 else y
        return y[:, :, probe.rows] if y.ndim > 3 else y

    return np.concatenate([np.asarray(few(y), np.float32).reshape(len(y), -1) for y in outputs], axis=1)


class Direction(NamedTuple):
    path: str
    atom: int
    value: np.ndarray


def directions(path: str, spec: mo.NormSpec, shape: tuple[int, ...]) -> list[Direction]:
    """For some of the atoms of a leaf, the grid of u v' in its fan-in and fan-out."""
    rng = np.random.default_rng(2)
    assert spec.axes is not None
    *stack, fan_in, fan_out = to_canonical(jnp.zeros(shape), spec.axes).shape
    found = []
    for atom in range(min(ATOMS, int(np.prod(stack)))):
        us, vs = (rng.normal(size=(GRID, n)) / n**0.5 for n in (fan_in, fan_out))
        for u in us:
            for v in vs:
                canonical = np.zeros((int(np.prod(stack)), fan_in, fan_out), np.float32)
                canonical[atom] = np.outer(u, v)
                value = from_canonical(jnp.asarray(canonical.reshape(*stack, fan_in, fan_out)), spec.axes, shape)
                found.append(Direction(path, atom, np.asarray(value)))
    return found


def stacked(params: Any, chosen: list[Direction]) -> Any:
    """One tree of all directions, which are zero in all leaves but their own."""
    flat, treedef = flatten_with_paths(params)
    leaves = {path: np.zeros((len(chosen), *x.shape), np.float32) if hasattr(x, "shape") else x for path, x in flat}
    for n, direction in enumerate(chosen):
        leaves[direction.path][n] = direction.value
    return treedef.unflatten([leaves[path] for path, _ in flat])


def rank(responses: np.ndarray) -> int:
    values = np.linalg.svd(responses, compute_uv=False)
    return int((values > NOISE * values[0]).sum()) if values[0] > 0 else 0


def contrast(responses: np.ndarray, sizes: tuple[int, int]) -> float:
    """How many more directions of the claimed fan-out than of the fan-in count, as a logarithm.

    Args:
      responses: [u, v, output].
      sizes: the largest ranks that these can have; such a rank says nothing.
    """
    if not np.isfinite(responses).all():
        return 0.0
    by_input = rank(responses.reshape(GRID, -1))
    by_output = rank(responses.swapaxes(0, 1).reshape(GRID, -1))
    lower, limit = min((by_input, sizes[0]), (by_output, sizes[1]))
    return float(np.log(by_output / by_input)) if 0 < lower < limit else 0.0


def contrasts(model: ZooModel, specs: dict[str, mo.NormSpec]) -> dict[str, float]:
    """For every linear leaf the contrast under the probe that shows most: positive if its axes are right."""
    linear = {path: spec for path, spec in specs.items() if spec.role == "linear"}
    shapes = {path: x.shape for path, x in flatten_with_paths(model.params)[0] if path in linear}
    sides = {path: to_canonical(jnp.zeros(shapes[path]), spec.axes).shape[-2:] for path, spec in linear.items()}
    # of a single vector there is nothing to transpose
    linear = {path: spec for path, spec in linear.items() if min(sides[path]) > 1}
    chosen = [d for path, spec in linear.items() for d in directions(path, spec, shapes[path])]
    found = dict.fromkeys(linear, 0.0)
    if not chosen:
        return found

    @jax.jit
    def differences(params, inputs, steps):
        def outputs(step):
            ys = jax.tree.leaves(model.apply(jax.tree.map(lambda x, s: x + s.astype(x.dtype), params, step), *inputs))
            return [y for y in ys if jnp.issubdtype(y.dtype, jnp.floating)]

        def difference(step):
            return jax.tree.map(jnp.subtract, outputs(step), outputs(jax.tree.map(jnp.negative, step)))

        return jax.vmap(difference)(steps)

    steps = jax.tree.map(lambda x: STEP * x, stacked(model.params, chosen))
    for seed, probe in itertools.product(SEEDS, PROBES):
        if probe is PROBES[0] and found and min(found.values()) > 0:
            break
        params = params_of(model, specs, probe, seed)
        responses = seen(differences(params, inputs_of(model, probe), steps), probe)
        for n in range(0, len(chosen), GRID**2):
            path = chosen[n].path
            fan_in, fan_out = sides[path]
            grid = responses[n : n + GRID**2].reshape(GRID, GRID, -1)
            shown = contrast(grid, (min(GRID, fan_in), min(GRID, fan_out)))
            found[path] = max(found[path], shown, key=abs)
    return found


# Leaves that finite differences of the output cannot tell, or not alone, and why.
ONE_NUMBER = "the outputs are scalars"
ATTENTION = "what a few queries tell apart is as few keys, and the other way round"
MANY = "many inputs meet it, whatever the example inputs"
DOUBTFUL = {
    r"linen.gpt_loss: .*": ONE_NUMBER,
    r"plain.(loss_with_weight_decay|contrastive): .*": ONE_NUMBER,
    r"plain.vq_vae: w|plain_nets.policy_loss: .*|plain_varied.recommendation: bottom": ONE_NUMBER,
    r"(linen|nnx).gpt.*: .*/(query|key)/kernel": ATTENTION,
    r"linen.t5: .*/(query|key)/kernel": ATTENTION,
    r"plain.concatenated_weights: w[qk]|plain_nets.masked_with_prompts: w[qk]": ATTENTION,
    r"plain_nets.seq2seq_additive_attention: [qk]|plain_papers.learned_object_queries: c[qk]": ATTENTION,
    r"plain_varied.(class_token.*|slot_attention|universal_transformer|product_keys): [qk][12]?": ATTENTION,
    r"plain.mixer: mix|plain_nets.continuous_position_bias: c.|plain_papers.convolution_by_patches: .": MANY,
    r"linen.moe: .*router.*|plain_papers.modulated_convolution: rgb|plain_varied.tensor_train: g.": MANY,
    r"plain.mixture_of_weights: gate|plain.autoencoder_tied: w": "it is used in two places",
    r"plain_papers.column_vectors: v": "samples are columns",
    r"plain.energy_forces: w.": "the outputs are gradients, which pass layers backwards",
    r"(plain|plain_nets).*experts.*: .*|plain_papers.quantised_straight_through: w": "choices and rounding jump",
    r"equinox.weight_norm: first/layer/weight|plain_papers.dora: .": "a normalised weight acts through its length, too",
    r"plain_papers.one_step_of_a_gru: u[nz]|plain_papers.learned_object_queries: s[ov]": "its inputs are zero",
    r"plain.batchnorm_folded: w.": "random variances may be negative",
    r"plain.stack_indexed: layers": "two outputs tell less apart than there are inputs",
    r"plain_varied.synthesizer: r": "a softmax of a weight moves all its rows' entries at once",
}


@pytest.mark.parametrize("name", sorted(ZOO))
def test_the_inputs_of_a_linear_leaf_run_along_its_fan_in(name):
    model = ZOO[name]()
    shown = contrasts(model, infer(model))
    wrong = [path for path, value in shown.items() if value <= 0]
    assert [path for path in wrong if not any(re.fullmatch(leaf, f"{name}: {path}") for leaf in DOUBTFUL)] == []


TRANSPOSED = ["linen.mlp", "equinox.scan_mlp", "haiku.mlp", "plain.heads_first", "plain_varied.latent_attention"]


@pytest.mark.parametrize("name", TRANSPOSED)
def test_transposed_axes_are_rejected(name):
    model = ZOO[name]()

    def transposed(spec):
        axes = dataclasses.replace(spec.axes, fan_in=spec.axes.fan_out, fan_out=spec.axes.fan_in)
        return dataclasses.replace(spec, axes=axes)

    specs = {path: transposed(spec) if spec.role == "linear" else spec for path, spec in infer(model).items()}
    shown = contrasts(model, specs)
    assert len(shown) >= 2
    assert all(value < 0 for value in shown.values())
