"""Transformers of `penzai`: axes have names, and every layer says which it contracts and which it makes."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from penzai import pz
from penzai.models.transformer.variants import gpt_neox, llamalike_common

from tests.real._model import Layout, RealModel, real_models

TOKENS = jax.ShapeDtypeStruct((2, 16), jnp.int32)


def built(make: Callable[[jax.Array], Any]) -> Callable[[], RealModel]:
    def build() -> RealModel:
        models = []

        def init(key: jax.Array) -> dict[str, Any]:
            unbound, variables = pz.unbind_params(make(key), freeze=True)
            models.append(unbound)
            return {variable.label: variable.value for variable in variables}

        named = jax.eval_shape(init, jax.random.key(0))
        names = {label: tuple(value.named_axes) for label, value in named.items()}
        arrays = {label: value.unwrap(*names[label]) for label, value in named.items()}

        def apply(p: dict[str, jax.Array], tokens: jax.Array) -> jax.Array:
            variables = [
                pz.ParameterValue(label=label, value=pz.nx.wrap(array).tag(*names[label])) for label, array in p.items()
            ]
            model = pz.bind_variables(models[0], variables, unfreeze_as_copy=True)
            return model(pz.nx.wrap(tokens).tag("batch", "seq")).unwrap("batch", "seq", "vocabulary")

        def documented(leaves: Mapping[str, Any]) -> dict[str, Layout]:
            layouts = _layouts(models[0])
            return {
                path: _numbered(*layouts[label], names[label])
                for label, path in zip(sorted(names), sorted(leaves), strict=True)
            }

        return RealModel(apply, arrays, (TOKENS,), documented)

    return build


def _layouts(model: Any) -> dict[str, tuple[str, tuple[str, ...], tuple[str, ...] | None]]:
    """Role, names of inputs, names of outputs (`None`: all others) of every parameter, by label."""
    found: dict[str, Any] = {}
    for layer in pz.select(model).at_instances_of(pz.nn.Linear).get_sequence():
        is_gain = not layer.in_axis_names + layer.out_axis_names
        found[layer.weights.label] = (
            ("gain", (), None) if is_gain else ("linear", layer.in_axis_names, layer.out_axis_names)
        )
    for layer in pz.select(model).at_instances_of(pz.nn.AddBias).get_sequence():
        found[layer.bias.label] = ("bias", (), None)
    decoders = pz.select(model).at_instances_of(pz.nn.EmbeddingDecode).get_sequence()
    tied = {layer.table.embeddings.label for layer in decoders}
    for layer in pz.select(model).at_instances_of(pz.nn.EmbeddingLookup).get_sequence():
        table = layer.table
        role = "tied" if table.embeddings.label in tied else "embedding"
        found[table.embeddings.label] = (role, (table.vocabulary_axis,), None)
    return found


def _numbered(role: str, fan_in: tuple[str, ...], fan_out: tuple[str, ...] | None, names: tuple[str, ...]) -> Layout:
    rows = [i for i, name in enumerate(names) if name in fan_in]
    columns = [i for i, name in enumerate(names) if (name in fan_out if fan_out is not None else i not in rows)]
    return f"{role} {' '.join(map(str, rows))} > {' '.join(map(str, columns))}"


def llamalike(groups: int, queries: int, tied: bool, **changes: Any) -> Callable[[], RealModel]:
    config = llamalike_common.LlamalikeTransformerConfig(
        num_kv_heads=groups,
        query_head_multiplier=queries,
        embedding_dim=512,
        projection_dim=64,
        mlp_hidden_dim=1024,
        num_decoder_blocks=2,
        vocab_size=1000,
        mlp_variant="geglu_approx" if tied else "swiglu",
        tie_embedder_and_logits=tied,
        **changes,
    )
    return built(lambda key: llamalike_common.build_llamalike_transformer(config, init_base_rng=key))


def neox() -> Callable[[], RealModel]:
    config = gpt_neox.GPTNeoXTransformerConfig(
        num_attention_heads=8,
        embedding_dim=512,
        projection_dim=64,
        mlp_hidden_dim=1024,
        num_decoder_blocks=2,
        vocab_size=1000,
        activation_fn="gelu_exact",
        rope_subset_size=16,
        rope_wavelength=10_000,
        layernorm_epsilon=1e-5,
        parameter_dtype=jnp.float32,
        activation_dtype=jnp.float32,
    )
    return built(lambda key: gpt_neox.build_gpt_neox_transformer(config, init_base_rng=key))


real_models(
    "penzai",
    {
        "llama": llamalike(2, 4, tied=False),
        "gemma": llamalike(1, 8, tied=True, attn_logits_soft_cap=50.0, use_post_attn_norm=True),
        "all_heads": llamalike(8, 1, tied=True),
        "gpt_neox": neox(),
    },
)
