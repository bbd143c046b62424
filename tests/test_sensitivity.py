"""Traced sensitivity: Modula's own target norms from plain Flax, and refusals where it would not be sound."""

import json
import pathlib
import sys
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import modula_optax as mo
from modula_optax._paths import flatten_with_paths
from tests.zoo._model import array, tokens
from tests.zoo.plain import rms, shapes

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "examples"))

import hello_gpt  # noqa: E402
from common.modula_gpt import ModulaBlock, ModulaGPT  # noqa: E402

GOLDEN = json.loads((HERE / "golden" / "modula_target_norms.json").read_text())
ROUNDING = 1e-6  # of float32
VOCAB, WIDTH, HEADS = 65, 32, 4


def dense(features: int, name: str) -> nn.Dense:
    return nn.Dense(features, use_bias=False, name=name)


class ScanGPT(nn.Module):
    blocks: int

    @nn.compact
    def __call__(self, idx):
        x = nn.Embed(VOCAB, WIDTH, name="embed")(idx)
        scan = nn.scan(
            lambda block, x, _: (block(x), None),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.blocks,
        )
        x, _ = scan(ModulaBlock(HEADS, self.blocks, name="blocks"), x, None)
        return dense(VOCAB, "out")(x)


def infer(model, *inputs, **options):
    params = jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]
    return mo.infer_specs(lambda p, *a: model.apply({"params": p}, *a), params, *inputs, **options)


def targets(specs) -> dict[str, float]:
    return {path.split("/kernel")[0].split("/embedding")[0]: spec.target for path, spec in flatten_with_paths(specs)[0]}


def modula_gpt(blocks):
    """The specs of the example, whose network is Modula's."""
    return hello_gpt.norms(ModulaGPT(VOCAB, WIDTH, HEADS, blocks))[1]["params"]


def scan_gpt(blocks):
    specs = infer(ScanGPT(blocks), tokens(2, 8), sensitivity="traced")
    return mo.tare(mo.tare(specs, r"block.*", hello_gpt.BLOCKS_MASS), r".*", 1.0)


@pytest.mark.parametrize("blocks", [2, 4, 8])
@pytest.mark.parametrize("specs_of", [modula_gpt, scan_gpt])
def test_the_target_norms_of_modulas_gpt(blocks, specs_of):
    golden = GOLDEN[f"gpt_{blocks}_blocks"]
    assert golden["mass_blocks"] == hello_gpt.BLOCKS_MASS
    found = targets(specs_of(blocks))
    for name, atom in golden["atoms"].items():
        layer, _, leaf = name.partition(".")
        if leaf:
            layer = layer if specs_of is modula_gpt else "blocks"
            leaf = leaf if leaf in ("fc", "proj") else f"attention/{leaf}"
        path = f"{layer}/{leaf}".strip("/")
        assert found[path] == pytest.approx(atom["target_norm_exact"], rel=ROUNDING), name


class Network(nn.Module):
    """Of layers that it names as Modula's records do."""

    wire: Callable[..., jax.Array]

    @nn.compact
    def __call__(self, x):
        return self.wire(lambda name, y: dense(WIDTH, name)(y), x)


def mlp(layer, x):
    for i in range(3):
        x = nn.relu(layer(f"linear{i}", x))
    return layer("linear3", x)


def scaled_residual(layer, x):
    z = 3 * layer("C", x)
    return 2 * layer("A", 0.5 * layer("B", z) + z)


def tared_chain(layer, x):
    return layer("A", nn.gelu(layer("B", nn.relu(layer("C", x)))) / 1.1289)


def parallel_sum(layer, x):
    return layer("A", layer("B", x)) + layer("C", x)


@pytest.mark.parametrize(
    ("name", "wire"),
    [
        ("mlp_depth4", mlp),
        ("scaled_residual", scaled_residual),
        ("tared_chain", tared_chain),
        ("parallel_sum", parallel_sum),
    ],
)
def test_the_target_norms_of_modulas_small_networks(name, wire):
    specs = infer(Network(wire), array(5, WIDTH), sensitivity="traced")
    if name == "tared_chain":
        specs = mo.tare(specs, "B/kernel", 4.0)
    found = targets(mo.tare(specs, r".*", 1.0))
    assert found == pytest.approx(GOLDEN[name]["target_norms"], rel=ROUNDING)


def test_the_target_norms_of_an_mlp_scanned_over_its_layers():
    def apply(p, x):
        return jax.lax.scan(lambda x, w: (jax.nn.relu(x @ w), None), x, p["hidden"])[0] @ p["last"]

    params = shapes(hidden=(3, WIDTH, WIDTH), last=(WIDTH, WIDTH))
    specs = mo.tare(mo.infer_specs(apply, params, array(5, WIDTH), sensitivity="traced"), r".*", 1.0)
    assert targets(specs) == pytest.approx(dict.fromkeys(params, GOLDEN["mlp_depth4"]["target_norms"]["linear0"]))


@pytest.mark.parametrize("approximate", [True, False])
def test_a_multiple_of_a_gelu_has_a_multiple_of_the_slope_in_the_papers(approximate):
    specs = mo.infer_specs(
        lambda p, x: -3.0 * jax.nn.gelu(x @ p, approximate=approximate), array(4, 6), array(5, 4), sensitivity="traced"
    )
    assert specs.sensitivity == pytest.approx(3 * 1.1289, rel=ROUNDING)


def test_any_other_function_has_its_own_slope():
    specs = mo.infer_specs(lambda p, x: jax.nn.silu(x @ p), array(4, 6), array(5, 4), sensitivity="traced")
    assert specs.sensitivity == pytest.approx(1.09984, rel=1e-5)  # at 2.3994


def test_the_slope_of_a_scalar_counts_by_its_absolute_value():
    specs = mo.infer_specs(lambda p, x: -3.0 * (x @ p), array(4, 6), array(5, 4), sensitivity="traced")
    assert specs.sensitivity == 3.0


def test_layers_that_differ_take_the_largest_sensitivity():
    def apply(p, x):
        return jax.lax.scan(lambda x, w: (2.0 * jnp.tanh(x @ w), None), x, p)[0]

    specs = mo.infer_specs(apply, array(3, 6, 6), array(5, 6), sensitivity="traced")
    assert specs.sensitivity == pytest.approx(8.0, rel=1e-3)


def prenorm(p, x):
    for _ in range(12):
        x = x + jax.nn.relu(rms(x) @ p["w"])
    return x


def while_loop(p, x):
    return jax.lax.while_loop(lambda s: s[1] < 3, lambda s: (jnp.tanh(s[0] @ p["w"]), s[1] + 1), (x, 0))[0]


def recurrence(p, x):
    return jax.lax.scan(lambda h, x: (jnp.tanh(h @ p["w"] + x), None), x[0], jnp.tile(x, (20, 1)))[0]


REFUSED = {
    "above 100": (prenorm, "w is .*, above 100"),
    "while": (while_loop, "a while loop at test_sensitivity.py"),
    "recurrence": (recurrence, "a recurrence of 100 steps"),
    "tied": (lambda p, x: p["w"][jnp.int32(x)] @ p["w"].T, "not sound for tied weights: w"),
    "product": (lambda p, x: (x @ p["w"]) * (x @ p["w"]), "mul at test_sensitivity.py:.*after w multiplies two act"),
    "no rule": (lambda p, x: jnp.fft.fft(x @ p["w"]).real, "fft at test_sensitivity.py:.*after w has no rule"),
    "no bound": (lambda p, x: jnp.exp(x @ p["w"]), "no bound on its slope|above 100"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore:.*to check in the inferred specs")
def test_an_unsound_sensitivity_is_refused_with_a_reason(name):
    apply, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        mo.infer_specs(apply, shapes(w=(6, 6)), array(5, 6), sensitivity="traced")
