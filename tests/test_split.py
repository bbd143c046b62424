"""Heads and blocks as matrices of their own: inference finds them, and everything that takes specs follows."""

import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import modula_optax as mo
from modula_optax._paths import flatten_with_paths
from tests.cases import untyped
from tests.notation import axes_of
from tests.zoo import ZOO
from tests.zoo._model import array
from tests.zoo.plain import shapes

# layouts of attention when heads are matrices of their own, by hand from how many heads each model has
LINEN = {r".*(query|key|value)/kernel": "linear 0 > 2", r".*out/kernel": "linear 1 > 2"}
FLAT = {r"w?[qkv]": "linear 0 > 1 / 2", r"w?o": r"linear 0 \ 2 > 1"}
FUSED = {r"w?qkv": "linear 0 > 1 / 6", r"w?o": r"linear 0 \ 2 > 1"}
OWN = {"[qkv]": "linear 0 > 2", "o": "linear 1 > 2"}
HEADS = {
    "equinox.transformer": {
        r"attn/(query|key|value)_proj/weight": "linear 1 > 0 / 2",
        r"attn/output_proj/weight": r"linear 1 \ 2 > 0",
    },
    "haiku.transformer": {
        r"multi_head_attention\w*/(query|key|value)/w": "linear 0 > 1 / 2",
        r"multi_head_attention\w*/linear/w": r"linear 0 \ 2 > 1",
    },
    **dict.fromkeys(
        ["linen.gpt", "linen.gpt_loss", "linen.gpt_remat_bfloat16", "linen.gpt_tied", "linen.vit", "linen.t5"], LINEN
    ),
    "linen.gpt_scan": {r".*(query|key|value)/kernel": "linear 1 > 3", r".*out/kernel": "linear 2 > 3"},
    "linen.perceiver": LINEN,
    "nnx.gpt": LINEN,
    "nnx.gpt_tied": LINEN,
    "plain.gpt_fori_loop": {"wqkv": "linear 1 > 2 / 6", "wo": r"linear 1 \ 2 > 2"},
    "plain.gpt_fused_qkv_tied": FUSED,
    "plain.gpt_one_hot": FUSED,
    # four heads of queries over two of keys and values
    "plain.grouped_query_attention": {"q": "linear 0 > 2", "kv": "linear 1 > 3", "o": "linear 1 > 2"},
    "plain.heads_first": {"[qkv]": "linear 1 > 2", "o": "linear 1 > 2"},
    "plain_conventions.levanter_gpt2": {
        r".*c_attn/weight": "linear 4 > 3",
        r".*attn/c_proj/weight": "linear 3 > 1",
    },
    "plain_conventions.levanter_mixtral": {
        r".*q_proj/weight": "linear 4 > 3",
        r".*[kv]_proj/weight": "linear 3 > 2",
        r".*o_proj/weight": "linear 3 > 1",
    },
    "plain_conventions.maxtext_llama": {
        r".*attention/(query|key|value)/kernel": "linear 0 > 3",
        r".*attention/out/kernel": "linear 2 > 3",
    },
    "plain_conventions.maxtext_deepseek_latent_attention": {
        # the first factors of low rank are shared by all heads
        r".*(wq_b|wkv_b)/kernel": "linear 0 > 3",
        r".*attention/out/kernel": "linear 2 > 3",
    },
    # what comes before is mixed over time by a convolution
    "plain_conventions.maxtext_gated_delta_net": {r".*out_proj/kernel": r"linear 0 \ 4 > 2"},
    "plain_further.relative_keys_and_values": FLAT,
    "plain_further.written_into_places": FLAT,
    "plain_nets.continuous_position_bias": FLAT,
    "plain_nets.llama": {"wq": "linear 0 > 1 / 4", "w[kv]": "linear 0 > 1 / 2", "wo": r"linear 0 \ 4 > 1"},
    "plain_nets.transformer_xl": {"[qkr]": "linear 0 > 2", "wv": "linear 0 > 1 / 2", "wo": r"linear 0 \ 2 > 1"},
    "plain_papers.heads_of_torch_with_sinks": {"[qkv]": "linear 2 > 1", "o": "linear 2 > 0"},
    "plain_papers.linear_attention": {"q": "linear 0 > 1 / 2", "kv": "linear 0 > 1 / 4", "o": r"linear 0 \ 2 > 1"},
    # one head of keys and values
    "plain_papers.multi_query_attention_of_one_sample": {"q": "linear 0 > 2", "o": "linear 1 > 2"},
    "plain_published.attention_of_the_mean": {"q": "linear 0 > 2", "o": "linear 1 > 2"},
    "plain_papers.swin": FUSED,
    "plain_published.attention_normalised_afterwards": OWN,
    # of the layer of its only query no role is known
    "plain_published.attention_pooled_by_one_query": {"[kv]": "linear 0 > 2", "o": "linear 1 > 2"},
    "plain_published.attention_pooled_by_queries": OWN,
    "plain_published.attention_pooled_by_two_queries": OWN,
    "plain_members.queries_keys_and_values_of_a_stack_of_layers": {"qkv": "linear 2 > 4", "o": "linear 2 > 3"},
    **dict.fromkeys(
        [
            "plain_finetuned.pixels_shuffled_into_channels",
            "plain_finetuned.prefixes_adapters_and_scales",
            "plain_finetuned.prompts_before_tokens",
            "plain_hybrids.attention_to_indexed_tokens",
            "plain_hybrids.llama_4",
        ],
        FLAT,
    ),
    **dict.fromkeys(
        [
            "plain_generators.masked_autoregressive_with_long_skips",
            "plain_generators.next_scale_prediction",
            "plain_learners.decision_transformer",
            "plain_learners.patches_of_a_series",
        ],
        FUSED,
    ),
    "plain_finetuned.vectors_between_random_matrices": {"[qkv]/w": "linear 0 > 1 / 2", "o/w": r"linear 0 \ 2 > 1"},
    "plain_generators.deformable_attention": {
        "s[qkv]|offset|weight|value": "linear 0 > 1 / 2",
        "so|out": r"linear 0 \ 2 > 1",
    },
    "plain_generators.diffusion_transformer": {".*/qkv": "linear 0 > 1 / 6", ".*/o": r"linear 0 \ 2 > 1"},
    "plain_generators.two_streams_of_modalities": {".*/qkv": "linear 0 > 1 / 6", "[it]/o": r"linear 0 \ 2 > 1"},
    # queries and keys are mixed over time before they are heads
    "plain_hybrids.gated_delta_net": {"o": r"linear 0 \ 2 > 1"},
    "plain_hybrids.gpt_oss": {"q": "linear 0 > 1 / 4", "[kv]": "linear 0 > 1 / 2", "o": r"linear 0 \ 4 > 1"},
    "plain_hybrids.three_layers_of_states_and_one_of_attention": {
        "full/[qkv]": "linear 0 > 2",
        "full/o": "linear 1 > 2",
    },
    # a gate reads heads as the output layer does
    "plain_sciences.pair_former": {"[st][qkv]": "linear 0 > 1 / 2", "[st]o|tg": r"linear 0 \ 2 > 1"},
    "plain_products.detection_transformer": {"[sc][qkv]": "linear 0 > 1 / 2", "[sc]o": r"linear 0 \ 2 > 1"},
    "plain_products.memory_of_learned_vectors": {"[qkv]": "linear 0 > 1 / 2", "o": r"linear 0 \ 2 > 1"},
    "plain_products.perceiver_with_output_queries": {"[io][qkv]": "linear 0 > 1 / 2", "[io]o": r"linear 0 \ 2 > 1"},
    "plain_products.queries_that_share_their_keys": {"wq": "linear 0 > 2", "o": r"linear 0 \ 2 > 1"},
    "plain_graphs.frames_of_a_protein": {"ipa/[qk]p?|ipa/v": "linear 0 > 1 / 3"},
    "plain_images.dino_v2": FUSED,
    # its output layer meets values before these are weighed, where nothing is a head yet
    "plain_images.max_vit": {"qkv": "linear 0 > 1 / 6"},
    "plain_images.segment_anything": {
        "(self|cross|back)/[qkv]": "linear 0 > 1 / 2",
        "(self|cross|back)/o": r"linear 0 \ 2 > 1",
    },
    "plain_images.swin_v2": {"qkv": "linear 0 > 3", "o": r"linear 0 \ 3 > 1"},
    "plain_images.unet_of_diffusion": {"qkv": "conv 1 > 0 @ 2 3 / 6", "out": r"conv 1 \ 2 > 0 @ 2 3"},
    "plain_recent.latent_attention_with_absorbed_kernels": {"q|u[kv]": "linear 0 > 2", "o": "linear 1 > 2"},
    "plain_recent.latent_attention_with_an_absorbed_kernel_of_both": {
        "q": "linear 0 > 1 / 2",
        "ukv": "linear 0 > 2",
        "o": r"linear 0 \ 2 > 1",
    },
    # gates of keys are cut into heads as these are
    "plain_sequences.gated_linear_attention": {"[qkv]|gk2": "linear 0 > 1 / 2", "o": r"linear 0 \ 2 > 1"},
    "plain_sequences.retnet": {"[qkv]": "linear 0 > 2", "o": r"linear 0 \ 3 > 1"},
    "plain_sequences.rwkv_7": {"[RKV]|[wa]2": "linear 0 > 1 / 2", "O": r"linear 0 \ 2 > 1"},
    # two heads of what the memory is made of, and of its gate
    "plain_sequences.xlstm": {"up": "linear 0 > 1 / 4", "down": r"linear 0 \ 2 > 1"},
    "plain_signals.conformer": {"qkv": "linear 1 > 3", "pos": "linear 0 > 2", "out": "linear 1 > 2"},
    "plain_tables.adaptive_time": FUSED,
    "plain_tables.patch_tst": {"qkv": "linear 0 > 3", "o": "linear 1 > 2"},
    # all heads share their values
    "plain_tables.temporal_fusion": {"[qk]": "linear 0 > 1 / 2"},
    "plain_texts.albert": FLAT,
    "plain_texts.deberta": FLAT,
    "plain_texts.multi_token_prediction": {"u[qkv]": "linear 0 > 2", "o": "linear 1 > 2"},
    "plain_varied.grouped_queries_with_an_axis_of_groups": {
        "q": "linear 0 > 3",
        "[kv]": "linear 0 > 2",
        "o": "linear 2 > 3",
    },
    "plain_varied.latent_attention": {"q|u[kv]": "linear 0 > 2", "o": "linear 1 > 2"},
}


def infer(apply, params, *inputs, **arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        specs = mo.infer_specs(apply, params, *inputs, unknown=mo.Unnormed(), **arguments)
    return {path: spec for path, spec in flatten_with_paths(specs)[0] if isinstance(spec, mo.NormSpec)}


@pytest.mark.parametrize("name", sorted(ZOO))
def test_heads_of_every_attention_are_found_and_nothing_else_is_split(name):
    model = ZOO[name]()
    found = infer(model.apply, model.params, *model.inputs, split="heads")
    truth = [*HEADS.get(name, {}).items(), *model.truth.items()]
    expected = {path: next(text for pattern, text in truth if re.fullmatch(pattern, path)) for path in found}
    assert {path: axes_of(spec) for path, spec in found.items()} == {
        path: " ".join(text.split()) for path, text in expected.items()
    }


def attention(p, x):
    """Grouped queries in one kernel, 4 x 8 + 8 + 8 outputs, rotated, and an output layer."""
    q, k, v = jnp.split(x @ p["qkv"], [32, 40], -1)
    q, k, v = (y.reshape(*y.shape[:2], -1, 8) for y in (q, k, v))
    q, k = (jnp.concatenate([-y[..., 4:], y[..., :4]], -1) for y in (q, k))
    weights = jax.nn.softmax(jnp.einsum("bqnh,bkmh->bmnqk", q, k))
    out = jnp.einsum("bmnqk,bkmh->bqnh", weights, v)
    return out.reshape(*x.shape[:2], 32) @ p["o"]


PARAMS = shapes(qkv=(16, 48), o=(32, 16))
INPUT = array(2, 7, 16)


@pytest.mark.parametrize(
    ("split", "sizes", "rows"),
    [("heads", [8] * 6, [8] * 4), ("blocks", [32, 8, 8], [32]), (("heads", "blocks"), [8] * 6, [8] * 4)],
)
def test_each_part_takes_the_step_that_it_would_take_alone(split, sizes, rows, key):
    specs = mo.infer_specs(attention, PARAMS, INPUT, split=split)
    gradients = {name: jax.random.normal(key, leaf.shape) for name, leaf in PARAMS.items()}
    tx = untyped(mo.dualize(specs))
    steps, _ = tx.update(gradients, tx.init(gradients))

    def alone(name, gradient):
        norm = getattr(specs[name].norm, "each", specs[name].norm)
        return specs[name].target * norm.dualize(gradient[None])[0]

    columns = jnp.split(gradients["qkv"], np.cumsum(sizes)[:-1], 1)
    np.testing.assert_allclose(steps["qkv"], jnp.concatenate([alone("qkv", g) for g in columns], 1), atol=1e-5)
    blocks = jnp.split(gradients["o"], np.cumsum(rows)[:-1], 0)
    np.testing.assert_allclose(steps["o"], jnp.concatenate([alone("o", g) for g in blocks], 0), atol=1e-5)


def test_kernels_stay_whole_by_default():
    specs = mo.infer_specs(attention, PARAMS, INPUT)
    assert specs == mo.infer_specs(attention, PARAMS, INPUT, split=())
    assert {axes_of(spec) for spec in specs.values()} == {"linear 0 > 1"}


def interleaved(p, x):
    """Queries, keys and values of a head side by side, as in GPT-NeoX."""
    q, k, v = jnp.split((x @ p["qkv"]).reshape(*x.shape[:2], 2, 12), 3, -1)
    out = jnp.einsum("bnqk,bknh->bqnh", jax.nn.softmax(jnp.einsum("bqnh,bknh->bnqk", q, k)), v)
    return out.reshape(*x.shape[:2], 8) @ p["o"]


def in_pairs(p, x):
    """The same, taken apart by an axis of three within each head."""
    qkv = (x @ p["qkv"]).reshape(*x.shape[:2], 2, 3, 4)
    q, k, v = (qkv[..., i, :] for i in range(3))
    out = jnp.einsum("bnqk,bknh->bqnh", jax.nn.softmax(jnp.einsum("bqnh,bknh->bnqk", q, k)), v)
    return out.reshape(*x.shape[:2], 8) @ p["o"]


def square(p, x):
    """As many heads as each has entries, rotated in halves."""
    q, k, v = (y.reshape(*x.shape[:2], 2, 2) for y in jnp.split(x @ p["qkv"], 3, -1))
    q, k = (jnp.concatenate([-y[..., 1:], y[..., :1]], -1) for y in (q, k))
    out = jnp.einsum("bnqk,bknh->bqnh", jax.nn.softmax(jnp.einsum("bqnh,bknh->bnqk", q, k)), v)
    return out.reshape(*x.shape[:2], 4) @ p["o"]


@pytest.mark.parametrize(
    ("apply", "params", "groups"),
    [
        (interleaved, shapes(qkv=(6, 24), o=(8, 5)), 6),
        (in_pairs, shapes(qkv=(6, 24), o=(8, 5)), 6),
        (square, shapes(qkv=(6, 12), o=(4, 5)), 6),
    ],
)
def test_queries_keys_and_values_of_one_head_are_three_matrices(apply, params, groups):
    specs = mo.infer_specs(apply, params, array(2, 7, 6), split="heads")
    assert (specs["qkv"].axes.groups, specs["o"].axes.in_groups) == (groups, 2)


def test_specs_with_heads_and_blocks_survive_json_and_are_shown():
    both = {split: mo.infer_specs(attention, PARAMS, INPUT, split=split) for split in ("heads", "blocks")}
    for specs in both.values():
        assert mo.specs_from_json(mo.specs_to_json(specs)) == specs
    assert "in_groups=4" in str(mo.summarize(both["heads"], PARAMS))
    assert "blocks=32+8+8" in str(mo.summarize(both["blocks"], PARAMS))


def test_a_ball_holds_the_largest_of_all_blocks_and_what_bounds_singular_values_refuses_them(key):
    weights = {"w": jax.random.normal(key, (16, 48))}
    norm = mo.Blocks(mo.Spectral(), (32, 8, 8))
    held = mo.NormSpec(norm, constraint=mo.NormBall(0.5))
    projected = mo.project(weights, held)["w"]
    each = [mo.leaf_norms(block, mo.NormSpec(mo.Spectral())) for block in jnp.split(projected, [32, 40], 1)]
    np.testing.assert_allclose(max(each), 0.5, rtol=1e-2)
    np.testing.assert_allclose(projected / projected[0, 0], weights["w"] / weights["w"][0, 0], rtol=1e-4)
    with pytest.raises(ValueError, match=r"w .*SpectralCap.* is about singular values, which Blocks.*does not measure"):
        mo.project(weights, mo.NormSpec(norm, constraint=mo.SpectralCap(0.5)))


@pytest.mark.parametrize("split", ["head", ("heads", "layers"), 3, None])
def test_what_cannot_be_split_is_told(split):
    with pytest.raises(ValueError, match="split must be 'heads', 'blocks' or a tuple of these"):
        mo.infer_specs(attention, PARAMS, INPUT, split=split)


def test_sensitivities_of_parts_are_refused():
    with pytest.raises(ValueError, match="whole kernels"):
        mo.infer_specs(attention, PARAMS, INPUT, split="heads", sensitivity="traced")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mo.Blocks(mo.RMS(), (2, 3)), "each must be a norm of matrices"),
        (lambda: mo.Blocks(mo.Spectral(), 3), "sizes must be positive integers, such as .*got 3"),  # pyright: ignore
        (lambda: mo.Blocks(mo.Spectral, (2, 3)), "each must be a norm of matrices such as Spectral.*got <class"),  # pyright: ignore
        (lambda: mo.Blocks(mo.Spectral(), ()), "sizes must be positive integers"),
        (lambda: mo.Blocks(mo.Spectral(), (2, 0)), "sizes must be positive integers"),
        (
            lambda: mo.dual_norm({"w": jnp.ones((4, 6))}, mo.NormSpec(mo.Blocks(mo.Spectral(), (2, 3)))),
            "w .*2 . 3 outputs",
        ),
        (
            lambda: mo.dual_norm({"w": jnp.ones((4, 6))}, mo.NormSpec(mo.Spectral(), mo.Axes(0, 1, in_groups=3))),
            "in_groups=3",
        ),
    ],
)
def test_blocks_that_do_not_fit_are_told(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_of_a_kernel_of_heads_and_units_only_heads_are_split():
    """Queries, keys and values beside the hidden units of a perceptron, whose number heads divide, too."""

    def apply(p, x):
        q, k, v, h = jnp.split(x @ p["in"], [8, 16, 24], -1)
        q, k, v = (y.reshape(*y.shape[:2], 2, 4) for y in (q, k, v))
        w = jax.nn.softmax(jnp.einsum("bqhc,bkhc->bhqk", q, k))
        y = jnp.einsum("bhqk,bkhc->bqhc", w, v).reshape(*x.shape[:2], 8)
        return jnp.concatenate([y, jax.nn.gelu(h)], -1) @ p["out"]

    specs = infer(apply, shapes(**{"in": (8, 36)}, out=(20, 8)), array(2, 7, 8), split="heads")
    assert specs["in"].norm == mo.norms.Blocks(mo.Spectral(), (4, 4, 4, 4, 4, 4, 12))
