"""`transformers` 4.57, the last release with Flax models: configurations as published, but for fewer layers."""

import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import transformers
from transformers.models.longt5 import modeling_flax_longt5
from transformers.models.mt5 import modeling_flax_mt5
from transformers.models.t5 import modeling_flax_t5

from tests.real import _linen
from tests.real._model import Layout, RealModel, real_models

# what the package's own modules hold, as its source writes it
OWN: dict[str, Layout] = {
    r".*(norm|layernorm|layer_norm)/weight": "gain > 0",
    r".*lambda_?[12]": "gain > 0",
    r".*(final_logits_bias)": "bias > 1",
    r".*(predictions|lm_head|generator_lm_head|vocab_projector)/bias": "bias > 0",
    # a vector that is put before the tokens, as their first position where it has an axis for it
    r".*cls_token": "positional 1 > 2",
    r".*class_embedding": "bias > 0",
    r".*mask_token": "unused",
    r".*position_embeddings": "positional 1 > 2",
    r".*logit_scale": "gain >",
    # a table of relative positions, looked up for every pair
    r".*relative_position_bias_table": "embedding 0 > 1",
    # weight normalization of [outputs, inputs, taps], with a gain for every tap
    r".*pos_conv_embed/conv/weight_v": "conv 1 > 0 @ 2 / 16",
    r".*pos_conv_embed/conv/weight_g": "gain > 2",
    r".*pos_conv_embed/conv/bias": "bias > 0",
    # what masks spectra while training only
    r".*masked_spec_embed": "unused",
}
# GPT-2 keeps kernels as [outputs, inputs]
_linen.LAYOUTS["FlaxConv1D"] = {
    "kernel": lambda module, shape: "linear 1 > 0",
    "bias": lambda module, shape: "bias > 0",
}
TOKENS = jax.ShapeDtypeStruct((2, 24), jnp.int32)


def image(size: int = 224) -> jax.ShapeDtypeStruct:
    # the package takes images with their channels first
    return jax.ShapeDtypeStruct((2, 3, size, size), jnp.float32)


def built(name: str, *inputs: Any, tied: str | None = None, own: Mapping[str, Layout] = {}, **changes: Any):
    """A model by its name and the changes to its usual configuration; `tied` tells the table that is a head, too."""

    def build() -> RealModel:
        config = getattr(transformers, changes.pop("config", "") or f"{_family(name)}Config")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = getattr(transformers, f"Flax{name}")(config(**changes), _do_init=False)
        params = dict(model.params_shape_tree)
        state = {name: params.pop(name) for name in ("batch_stats",) if name in params}
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state)
        layouts = {**({tied: "tied 0 > 1"} if tied else {}), **own, **OWN}

        def call(p: Any, *a: Any) -> Any:
            return model(*a, params={"params": p, **zeros} if state else p).to_tuple()

        return _linen.noted(call, params["params"] if state else params, inputs, layouts)

    return build


class _EarlierNumpy:
    """`jax.numpy` with the names of the arguments of `clip` that T5's code was written for."""

    def __getattr__(self, name: str) -> Any:
        return getattr(jnp, name)

    def clip(self, x: Any, a_min: Any = None, a_max: Any = None) -> Any:
        return jnp.clip(x, a_min, a_max)


for module in (modeling_flax_t5, modeling_flax_mt5, modeling_flax_longt5):
    module.jnp = _EarlierNumpy()


def _family(name: str) -> str:
    for end in (
        "ForMaskedLM",
        "ForCausalLM",
        "LMHeadModel",
        "ForConditionalGeneration",
        "ForImageClassification",
        "Model",
    ):
        name = name.removesuffix(end)
    return name


WORDS = r".*word_embeddings/embedding"
TWO = {"num_hidden_layers": 2}
BOTH = {"encoder_layers": 2, "decoder_layers": 2}
real_models(
    "transformers",
    {
        "bert": built("BertForMaskedLM", TOKENS, tied=WORDS, **TWO),
        "roberta": built("RobertaForMaskedLM", TOKENS, tied=WORDS, **TWO),
        "roberta_prelayernorm": built("RobertaPreLayerNormForMaskedLM", TOKENS, tied=WORDS, **TWO),
        "xlm_roberta": built("XLMRobertaForMaskedLM", TOKENS, tied=WORDS, **TWO),
        "albert": built("AlbertForMaskedLM", TOKENS, tied=WORDS, **TWO),
        "electra": built("ElectraForMaskedLM", TOKENS, tied=WORDS, **TWO),
        "distilbert": built("DistilBertForMaskedLM", TOKENS, tied=WORDS, n_layers=2),
        "roformer": built("RoFormerForMaskedLM", TOKENS, tied=WORDS, **TWO),
        "gpt2": built("GPT2LMHeadModel", TOKENS, tied=r".*wte/embedding", n_layer=2),
        "gpt_neo": built(
            "GPTNeoForCausalLM",
            TOKENS,
            tied=r".*wte/embedding",
            num_layers=2,
            attention_types=[[["global", "local"], 1]],
        ),
        "gptj": built("GPTJForCausalLM", TOKENS, n_layer=2, n_embd=512, n_head=8),
        "bloom": built("BloomForCausalLM", TOKENS, tied=WORDS, n_layer=2, hidden_size=512),
        "opt": built("OPTForCausalLM", TOKENS, tied=r".*embed_tokens/embedding", **TWO),
        "xglm": built("XGLMForCausalLM", TOKENS, tied=r".*embed_tokens/embedding", num_layers=2),
        "llama": built("LlamaForCausalLM", TOKENS, num_key_value_heads=8, **TWO),
        "mistral": built("MistralForCausalLM", TOKENS, **TWO),
        "gemma": built("GemmaForCausalLM", TOKENS, tied=r".*embed_tokens/embedding", **TWO),
        "t5": built("T5ForConditionalGeneration", TOKENS, None, TOKENS, tied="shared/embedding", num_layers=2),
        "t5_v1_1": built(
            *("T5ForConditionalGeneration", TOKENS, None, TOKENS),
            num_layers=2,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
        ),
        "mt5": built("MT5ForConditionalGeneration", TOKENS, None, TOKENS, num_layers=2),
        "longt5": built(
            *("LongT5ForConditionalGeneration", TOKENS, None, TOKENS),
            tied="shared/embedding",
            num_layers=2,
            encoder_attention_type="transient-global",
        ),
        "bart": built("BartForConditionalGeneration", TOKENS, None, TOKENS, tied=".*shared/embedding", **BOTH),
        "mbart": built("MBartForConditionalGeneration", TOKENS, None, TOKENS, tied=".*shared/embedding", **BOTH),
        "pegasus": built("PegasusForConditionalGeneration", TOKENS, None, TOKENS, tied=".*shared/embedding", **BOTH),
        "blenderbot": built(
            "BlenderbotForConditionalGeneration", TOKENS, None, TOKENS, tied=".*shared/embedding", **BOTH
        ),
        "marian": built(
            "MarianMTModel", TOKENS, None, TOKENS, config="MarianConfig", tied=".*shared/embedding", **BOTH
        ),
        "whisper": built(
            *("WhisperForConditionalGeneration", jax.ShapeDtypeStruct((2, 80, 3000), jnp.float32), TOKENS),
            tied=r".*embed_tokens/embedding",
            **BOTH,
        ),
        "big_bird": built(
            "BigBirdForMaskedLM", jax.ShapeDtypeStruct((2, 1024), jnp.int32), tied=WORDS, block_size=64, **TWO
        ),
        "vit": built("ViTForImageClassification", image(), **TWO),
        "dinov2": built("Dinov2ForImageClassification", image(518), **TWO),
        "beit": built("BeitForImageClassification", image(), use_relative_position_bias=True, **TWO),
        "clip": built(
            *("CLIPModel", TOKENS, image()),
            text_config={"num_hidden_layers": 2},
            vision_config={"num_hidden_layers": 2},
        ),
        "resnet": built("ResNetForImageClassification", image()),
        "regnet": built("RegNetForImageClassification", image(), depths=[1, 1, 2, 1]),
        "wav2vec2": built(
            *("Wav2Vec2ForCTC", jax.ShapeDtypeStruct((2, 8000), jnp.float32)),
            config="Wav2Vec2Config",
            do_stable_layer_norm=True,
            feat_extract_norm="layer",
            **TWO,
        ),
    },
)
