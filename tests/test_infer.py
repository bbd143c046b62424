"""Inference: options, places, masses, overrides, and what is said of models that do not fit."""

import warnings
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import modula_optax as mo
from tests.cases import untyped
from tests.test_zoo import infer
from tests.zoo import ZOO
from tests.zoo._model import array, tokens
from tests.zoo.plain import shapes


def two_layers(p, x):
    return jax.nn.relu(x @ p["w0"] + p["b0"]) @ p["w1"]


PARAMS = shapes(w0=(4, 6), b0=6, w1=(6, 2))
X = array(5, 4)


def deep(p, idx):
    x = p["embed"][idx] + p["pos"]
    x = jax.nn.relu(x @ p["w0"] + p["b0"])
    return x @ p["w1"] + p["b1"]


DEEP = shapes(embed=(11, 4), pos=(7, 4), w0=(4, 6), b0=6, w1=(6, 11), b1=11)


def test_places_tell_input_hidden_and_head():
    specs = mo.infer_specs(deep, DEEP, tokens(3, 7))
    assert {name: spec.place for name, spec in specs.items()} == {
        "embed": "input",
        "pos": "hidden",
        "w0": "hidden",
        "b0": "hidden",
        "w1": "head",
        "b1": "head",
    }
    assert mo.infer_specs(two_layers, PARAMS, X)["w0"].place == "input"


def test_a_loss_has_the_roles_and_the_head_of_its_model():
    def loss(p, idx):
        return -jax.nn.log_softmax(deep(p, idx))[..., 0].mean()

    assert mo.infer_specs(loss, DEEP, tokens(3, 7)) == mo.infer_specs(deep, DEEP, tokens(3, 7))


def test_a_residual_branch_without_a_matrix_after_it_is_the_head():
    specs = infer(ZOO["linen.gpt"]())
    assert [path for path, spec in specs.items() if spec.place == "head" and spec.role == "linear"] == ["head/kernel"]


def test_head_and_tied_norms_can_be_chosen():
    specs = mo.infer_specs(deep, DEEP, tokens(3, 7), head=mo.RowL2())
    assert isinstance(specs["w1"].norm, mo.RowL2)
    assert isinstance(specs["w0"].norm, mo.Spectral)
    tied = mo.infer_specs(lambda p, i: jnp.tanh(p["w"][i]) @ p["w"].T, shapes(w=(11, 4)), tokens(3), tied=mo.Sign())
    assert (tied["w"].norm, tied["w"].axes) == (mo.Sign(), mo.Axes(1, 0))


def test_masses_go_by_place_for_matrices_and_by_role_for_the_rest():
    specs = mo.infer_specs(deep, DEEP, tokens(3, 7), masses={"head": 0.5, "linear": 2.0, "bias": 0.3})
    masses = {name: spec.mass for name, spec in specs.items()}
    assert masses == {"embed": 0.125, "pos": 0.5, "w0": 2.0, "b0": 0.3, "w1": 0.5, "b1": 0.3}


def test_the_masses_that_the_panel_chose_are_the_default():
    def apply(p, idx):
        return (normalised(p["table"][idx]) * p["gain"] + p["pos"] + p["bias"]) @ p["w"]

    params = shapes(table=(11, 4), gain=4, pos=(7, 4), bias=4, w=(4, 2))
    masses = {name: spec.mass for name, spec in mo.infer_specs(apply, params, tokens(3, 7)).items()}
    assert masses == {"table": 1.0, "gain": 0.1, "pos": 0.5, "bias": 0.1, "w": 2.0}
    assert mo.infer_specs(apply, params, tokens(3, 7), masses={"gain": 1.0})["gain"].mass == 1.0


def normalised(x):
    return (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-6)


def rms(x):
    return x / jnp.sqrt((x * x).mean(-1, keepdims=True))


def residual(norm):
    """A stack of residual layers, then a head that reads the stream as it is."""

    def apply(p, x):
        x, _ = jax.lax.scan(lambda x, w: (x + jnp.tanh(norm(x) @ w), None), x, p["layers"])
        return x @ p["head"]

    return apply


def recurrent(norm):
    def apply(p, x):
        def step(state, x):
            state = jnp.tanh((norm(x) + state) @ p["w"])
            return state, state

        return jax.lax.scan(step, jnp.zeros_like(x[:, 0]), x.swapaxes(0, 1))[1] @ p["head"]

    return apply


def feed_forward(norm):
    return lambda p, x: jnp.tanh(norm(x) @ p["w"]) @ p["head"]


@pytest.mark.parametrize("network", [residual, recurrent, feed_forward])
@pytest.mark.parametrize(
    ("norm", "mass"),
    [
        (normalised, 1.0),
        (rms, 1.0),
        (lambda x: x, 0.125),
        (jnp.tanh, 0.125),
        (lambda x: x - x.mean(-1, keepdims=True), 0.125),
    ],
)
def test_tables_that_a_hidden_matrix_reads_without_a_normalisation_move_an_eighth_as_far(network, norm, mass):
    apply = network(norm)
    params = shapes(table=(11, 4), layers=(3, 4, 4), w=(4, 4), head=(4, 11))
    used = {name: leaf for name, leaf in params.items() if name != ("w" if network is residual else "layers")}

    def looked_up(p, i):
        return apply(p, p["table"][i])

    def multiplied(p, i):
        return apply(p, jax.nn.one_hot(i, 11) @ p["table"])

    assert [mo.infer_specs(f, used, tokens(3, 7))["table"].mass for f in (looked_up, multiplied)] == [mass, mass]
    assert mo.infer_specs(looked_up, used, tokens(3, 7), masses={"embedding": 0.5})["table"].mass == 0.5


def test_tables_that_only_a_head_reads_move_as_far_as_those_before_a_normalisation():
    def apply(p, i):
        return p["table"][i].mean(1) @ p["head"]

    specs = mo.infer_specs(apply, shapes(table=(11, 4), head=(4, 3)), tokens(3, 7))
    assert specs["table"].mass == 1.0

    def averaged(p, i):
        return jnp.tanh(p["table"][i].mean(1) @ p["w"]) @ p["head"]

    specs = mo.infer_specs(averaged, shapes(table=(11, 4), w=(4, 4), head=(4, 3)), tokens(3, 7))
    assert specs["table"].mass == 0.125


@pytest.mark.parametrize("network", [residual, recurrent])
@pytest.mark.parametrize(
    ("rows", "others", "mass"),
    [
        (lambda p, i: p["table"][i] + p["at"], {"at": (7, 4)}, 0.3),
        (lambda p, i: p["at"][jnp.arange(7)] + 2.0 * (jax.nn.one_hot(i, 11) @ p["table"]), {"at": (7, 4)}, 0.3),
        (lambda p, i: p["table"][i] + (p["at"][:7] + p["kind"]), {"at": (9, 4), "kind": (4,)}, 0.3),
        (lambda p, i: p["table"][i] + p["at"], {"at": (4,)}, 1.0),
        # positions of what a layer made of the rows
        (lambda p, i: (p["table"][i], rms(p["table"][i]) @ p["v"] + p["at"]), {"at": (7, 4), "v": (4, 4)}, 1.0),
    ],
)
def test_tables_that_positions_are_added_to_leave_them_room(network, rows, others, mass):
    apply = network(rms)
    params = shapes(table=(11, 4), layers=(3, 4, 4), w=(4, 4), head=(4, 11), **others)
    used = {name: leaf for name, leaf in params.items() if name != ("w" if network is residual else "layers")}
    specs = mo.infer_specs(lambda p, i: jax.tree.map(partial(apply, p), rows(p, i)), used, tokens(3, 7))
    assert specs["table"].mass == mass


def test_a_linear_head_takes_a_step_for_every_output_unless_it_is_told_another_norm():
    assert mo.infer_specs(deep, DEEP, tokens(3, 7))["w1"].norm == mo.RowL2()
    spectral = mo.infer_specs(deep, DEEP, tokens(3, 7), head=mo.Spectral())["w1"]
    assert (spectral.norm, spectral.mass) == (mo.Spectral(), 1.0)
    # a head of many inputs learns from what is along them in part: its steps are no larger for it
    masses = [
        mo.infer_specs(two_layers, shapes(w0=(4, width), b0=width, w1=(width, 2)), X)["w1"].mass
        for width in (9, 64, 400)
    ]
    assert masses == [3.0, 8.0, 8.0]
    # sensitivities say the size of steps themselves
    traced = mo.infer_specs(two_layers, PARAMS, X, sensitivity="traced")
    assert {(spec.norm, spec.mass) for name, spec in traced.items() if name != "b0"} == {(mo.Spectral(), 1.0)}


def test_a_tied_table_steps_as_far_as_a_head(key):
    def apply(p, idx):
        return jnp.tanh(p["table"][idx]) @ p["table"].T

    def moved(**options):
        specs = mo.infer_specs(apply, shapes(table=(11, 9)), tokens(3, 7), **options)
        step, _ = untyped(mo.dualize(specs)).update({"table": jax.random.normal(key, (11, 9))}, optax.EmptyState())
        return step["table"]

    # of a head of nine inputs the mass is 3: rows of length 3 over the root of 9
    np.testing.assert_allclose(jnp.linalg.norm(moved(), axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(moved(), moved(tied=mo.RowL2()), rtol=1e-5)


def test_what_narrows_and_what_has_taps_has_the_mass_that_a_typical_input_asks_for():
    def network(p, x):
        x = jax.nn.relu(convolution(x, p["conv"]))
        x = jax.nn.relu(convolution(x, p["grouped"], feature_group_count=2))
        x = jax.nn.relu(convolution(x, p["depthwise"], feature_group_count=2))
        x = jax.nn.relu(jnp.einsum("nhwc,ecd->nhwed", x, p["experts"]))
        x = jnp.einsum("nhwed,edc->nhwec", x, p["back"]).mean(-2)
        return x.mean((1, 2)) @ p["head"]

    def convolution(x, kernel, **options):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
        )

    params = shapes(
        conv=(3, 3, 16, 8), grouped=(3, 3, 4, 2), depthwise=(3, 3, 1, 2), experts=(5, 2, 6), back=(5, 6, 2), head=(2, 3)
    )
    masses = {name: spec.mass for name, spec in mo.infer_specs(network, params, array(3, 4, 4, 16)).items()}
    # fans are those of one group, one expert: 16 and 8, 4 and 1, 1 and 1, 2 and 6, 6 and 2; taps are nine
    expected = {"conv": 18.0, "grouped": 36.0, "depthwise": 9.0, "experts": 1.0, "back": 3.0, "head": 2.0}
    assert masses == pytest.approx({name: square**0.5 for name, square in expected.items()})


def test_patches_are_moved_alike_by_a_convolution_and_by_a_linear_layer(key):
    """The embedding of patches is the same map either way, and a typical patch is moved as far."""

    def by_convolution(p, x):
        return jax.lax.conv_general_dilated(x, p["w"], (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def by_matrix(p, x):
        return jnp.einsum("nhwk,kd->nhwd", x.reshape(8, 2, 4, 2, 4, 3).swapaxes(2, 3).reshape(8, 2, 2, 48), p["w"])

    images = jax.random.normal(key, (8, 8, 8, 3))
    moved = []
    for embed, shape in ((by_convolution, (4, 4, 3, 96)), (by_matrix, (48, 96))):

        def apply(p, x, embed=embed):
            return jax.nn.relu(embed(p, x)) @ p["head"]

        specs = mo.infer_specs(apply, shapes(w=shape, head=(96, 2)), images)["w"]
        gradient = jax.random.normal(jax.random.key(1), shape)
        step = mo.dualize(specs).update({"w": gradient}, optax.EmptyState())[0]
        moved.append(jnp.sqrt(jnp.mean(embed(step, images) ** 2)))
    np.testing.assert_allclose(moved, 1.0, rtol=0.1)


def stack_of(layers, x):
    for w in layers:
        x = jnp.tanh(x @ w)
    return x


def test_hidden_layers_that_follow_each_other_share_their_mass():
    def unrolled(p, x):
        return stack_of(p["layers"], x @ p["first"]) @ p["head"]

    def scanned(p, x):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x @ p["first"], p["layers"])[0] @ p["head"]

    def recurrent(p, x):
        return jax.lax.fori_loop(0, 128, lambda i, x: jnp.tanh(x @ p["layers"]), x @ p["first"]) @ p["head"]

    def side_by_side(p, x):
        return sum(jnp.tanh(x @ p["first"] @ w) for w in p["layers"]) @ p["head"]

    def masses(apply, layers):
        params = {**shapes(first=(4, 6), head=(6, 2)), "layers": layers}
        specs = mo.infer_specs(apply, params, X)
        assert (specs["first"].mass, specs["head"].mass) == (1.0, 6.0**0.5)
        return {spec.mass for spec in jax.tree.leaves(specs["layers"])}

    for depth, mass in ((1, 1.0), (8, 1.0), (128, 0.5)):
        assert masses(unrolled, [array(6, 6)] * depth) == masses(scanned, array(depth, 6, 6)) == {mass}
    # one matrix, used in every turn, and many that no value goes through two of
    assert masses(recurrent, array(6, 6)) == masses(side_by_side, [array(6, 6)] * 20) == {1.0}


def test_tare_takes_the_place():
    specs = mo.tare(mo.infer_specs(deep, DEEP, tokens(3, 7)), lambda _, spec: spec.place == "hidden", 6.0)
    assert sum(spec.mass for spec in specs.values() if spec.place == "hidden") == 6


def test_captured_data_stand_in_for_inputs():
    batch = jnp.ones((5, 4))
    assert mo.infer_specs(lambda p: two_layers(p, batch), PARAMS) == mo.infer_specs(two_layers, PARAMS, X)


def test_keywords_and_static_arguments_are_passed():
    def apply(p, x, layers, *, train, scale):
        assert train is True
        for _ in range(layers):
            x = jnp.tanh(x @ p["w"])
        return x * scale

    assert mo.infer_specs(apply, shapes(w=(4, 4)), X, 2, train=True, scale=array())["w"].role == "linear"


def test_numbers_give_what_their_shapes_give():
    filled = jax.tree.map(lambda x: jnp.ones(x.shape), (PARAMS, X))
    assert mo.infer_specs(two_layers, *filled) == mo.infer_specs(two_layers, PARAMS, X)


def test_specs_fit_optimizers_and_reports():
    params = jax.tree.map(lambda x: jnp.ones(x.shape), PARAMS)
    specs = mo.infer_specs(two_layers, params, X)
    tx = mo.modular(0.1, specs)
    tx.update(params, tx.init(params), params)
    roles = {row[0]: row[-2:] for row in mo.summarize(specs, params).rows}
    assert any(role == "linear (head)" and "dot_general at test_infer.py:" in why for role, why in roles.values())


def test_absent_leaves_stay_absent():
    specs = mo.infer_specs(lambda p, x: x @ p["w"], {"w": array(4, 2), "none": None}, X)
    assert specs["none"] is None


# Overrides and unknown roles


def threshold(p, x):
    return jnp.maximum(x @ p["w"], p["t"]) * jnp.arctan2(p["s"], x[:, :1])


UNKNOWN = shapes(w=(4, 6), t=6, s=6)


def test_all_unknown_leaves_are_in_one_error_with_overrides_to_paste():
    with pytest.raises(ValueError, match="2 parameters have a role that cannot be told") as info:
        mo.infer_specs(threshold, UNKNOWN, X)
    message = str(info.value)
    assert "t  float32[6]: operand of max (max at test_infer.py:" in message
    assert "s  float32[6]: operand of atan2 (atan2 at test_infer.py:" in message
    registry = message[message.index("mo.NormRegistry") :]
    specs = mo.infer_specs(threshold, UNKNOWN, X, overrides=eval(registry, {"mo": mo}))
    assert specs["t"].norm == mo.RMS()
    assert (specs["t"].role, specs["t"].confidence) == ("bias", "certain")


def test_an_override_says_the_role_and_the_place_or_leaves_them_to_inference():
    rules = mo.NormRegistry(
        mo.Rule("t", mo.RMS(), role="gain", place="head"), mo.Rule("[sw]", mo.RMS()), mo.Rule("v", mo.Spectral())
    )
    specs = mo.infer_specs(threshold, UNKNOWN, X, overrides=rules)
    assert {name: (spec.role, spec.place) for name, spec in specs.items()} == {
        "t": ("gain", "head"),
        "s": ("unknown", None),
        "w": ("linear", "head"),
    }


def test_unknown_gives_them_a_norm():
    assert mo.infer_specs(threshold, UNKNOWN, X, unknown=mo.Unnormed())["t"].norm == mo.Unnormed()


def test_overrides_win_and_keep_the_axes_found():
    rules = mo.NormRegistry(mo.Rule("w0", mo.Sign(), mass=3.0), mo.Rule("nothing like this", mo.RMS()))
    specs = mo.infer_specs(
        lambda p, x: two_layers({**p, "w0": p["w0"].T}, x), PARAMS | shapes(w0=(6, 4)), X, overrides=rules
    )
    assert (specs["w0"].norm, specs["w0"].axes, specs["w0"].mass) == (mo.Sign(), mo.Axes(1, 0), 3.0)
    assert specs["w1"].norm == mo.RowL2()


# Blocks


def attend(q, k, v):
    return jax.nn.softmax(q @ k.swapaxes(-1, -2)) @ v


def cut_by_split(p, x):
    return attend(*jnp.split(x @ p["qkv"], 3, -1)) @ p["o"]


def cut_by_slices(p, x):
    y = x @ p["qkv"]
    return attend(y[..., :12], y[..., 12:24], y[..., 24:]) @ p["o"]


def cut_by_heads(p, x):
    q, k, v = (x @ p["qkv"]).reshape(2, 5, 3, 2, 6).transpose(2, 0, 3, 1, 4)
    return attend(q, k, v).swapaxes(1, 2).reshape(2, 5, 12) @ p["o"]


def cut_as_weights(p, x):
    return attend(*(x @ w for w in jnp.split(p["qkv"], 3, -1))) @ p["o"]


@pytest.mark.parametrize("apply", [cut_by_split, cut_by_slices, cut_by_heads, cut_as_weights])
def test_a_fused_kernel_is_one_matrix_and_shows_its_blocks(apply):
    params = shapes(qkv=(4, 36), o=(12, 4))
    specs = mo.infer_specs(apply, params, array(2, 5, 4))
    assert (specs["qkv"].axes, specs["qkv"].blocks) == (mo.Axes(0, 1), (12, 12, 12))
    assert specs["o"].blocks == ()
    assert "in=(0) out=(1) blocks=12+12+12" in mo.summarize(specs, params)


def test_blocks_of_a_kernel_with_axes_of_its_own_for_them():
    def apply(p, x):
        q, k, v = jnp.einsum("btd,dsh->sbth", x, p["qkv"])
        return attend(q, k, v)

    specs = mo.infer_specs(apply, shapes(qkv=(4, 3, 5)), array(2, 6, 4))
    assert (specs["qkv"].axes, specs["qkv"].blocks) == (mo.Axes(0, (1, 2)), (5, 5, 5))


def test_blocks_need_not_be_of_one_size():
    specs = mo.infer_specs(
        lambda p, x: [jnp.tanh(y) for y in jnp.split(x @ p["w"], (3, 5), -1)], shapes(w=(4, 9)), array(5, 4)
    )
    assert specs["w"].blocks == (3, 2, 4)


NO_BLOCKS = {
    "one of many": lambda p, x: (x @ p["w"])[:, :2],
    "shifted": lambda p, x: (x @ p["w"])[:, 1:] - (x @ p["w"])[:, :-1],
    "interleaved": lambda p, x: jnp.split((x @ p["w"]).reshape(5, 2, 4), 2, -1),
    "of rows": lambda p, x: jnp.split(x, 2, -1)[0] @ p["w"][:2] + jnp.split(x, 2, -1)[1] @ p["w"][2:],
}


@pytest.mark.parametrize("name", NO_BLOCKS)
def test_other_cuts_are_no_blocks(name):
    specs = mo.infer_specs(NO_BLOCKS[name], shapes(w=(4, 8)), array(5, 4))
    assert (specs["w"].axes, specs["w"].blocks) == (mo.Axes(0, 1), ())


def test_an_override_makes_each_block_a_matrix(key):
    params = {"qkv": jax.random.normal(key, (4, 36)), "o": jax.random.normal(key, (12, 4))}
    rules = mo.NormRegistry(mo.Rule("qkv", mo.Spectral(), axes=mo.Axes(0, 1, groups=3)))
    specs = mo.infer_specs(cut_by_split, params, array(2, 5, 4), overrides=rules)
    assert specs["qkv"].blocks == (12, 12, 12)
    tx = untyped(mo.dualize(specs))
    step, _ = tx.update(params, tx.init(params))
    for block in jnp.split(step["qkv"], 3, -1):
        assert jnp.linalg.norm(block, 2) == pytest.approx((12 / 4) ** 0.5, rel=5e-3)


# One warning


def test_what_is_not_certain_is_warned_of_at_once():
    def apply(p, x):
        x = jnp.einsum("bd,ndh->bnh", x, p["guess"])
        v = p["normed"] / jnp.linalg.norm(p["normed"])
        return x.mean(1) @ v

    params = shapes(guess=(3, 4, 6), normed=(6, 2), idle=5)
    with pytest.warns(UserWarning, match="4 things to check") as records:
        specs = mo.infer_specs(apply, params, array(1, 4))
    assert len(records) == 1
    message = str(records[0].message)
    assert "guess  float32[3, 4, 6]: guessed to be linear with fan_in=(1,), fan_out=(2,)" in message
    assert "idle  float32[5]: unused: reaches no output" in message
    assert "normed  float32[6, 2]: linear, reparameterised" in message
    assert "example input 0 has shape (1, 4): an axis of size 1" in message
    assert specs["guess"].confidence == "guess"
    with pytest.raises(ValueError, match="4 things to check"):
        mo.infer_specs(apply, params, array(1, 4), strict=True)


def test_what_is_certain_is_not_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mo.infer_specs(two_layers, PARAMS, X, strict=True)


def test_an_override_settles_a_guess():
    params = shapes(w=(3, 4, 6))
    rules = mo.NormRegistry(mo.Rule("w", mo.Spectral(), mo.Axes(1, (0, 2))))
    mo.infer_specs(lambda p, x: jnp.einsum("bd,ndh->bnh", x, p["w"]), params, X, overrides=rules, strict=True)


# Bad input

BAD = {
    "too few inputs": (lambda: mo.infer_specs(two_layers, PARAMS), "does not accept what it is called with"),
    "not a function": (lambda: mo.infer_specs(PARAMS, two_layers), "apply_fn must be a function"),  # pyright: ignore[reportArgumentType]
    "no arrays out": (lambda: mo.infer_specs(lambda p, x: "text", PARAMS, X), "must return arrays.*returned str"),
    "nothing out": (lambda: mo.infer_specs(lambda p, x: None, PARAMS, X), "returned nothing"),
    "closed over": (lambda: mo.infer_specs(lambda p, x: x * 2, PARAMS, X), "closes over its parameters"),
    "no parameters": (lambda: mo.infer_specs(two_layers, {}, X), "params has no leaves"),
    "variables": (
        lambda: mo.infer_specs(two_layers, {"params": PARAMS, "batch_stats": PARAMS}, X),
        "whole variables: 'params' beside 'batch_stats'.*pass variables",
    ),
    "a complex weight": (
        lambda: mo.infer_specs(lambda p, x: x @ p["w"], {"w": array(4, 2, dtype=jnp.complex64)}, X),
        r"it is complex: keep its real and imaginary parts(.|\n)*mo.Rule\(r'w', mo.Unnormed\(\)\)",
    ),
    "no arrays in": (lambda: mo.infer_specs(two_layers, {**PARAMS, "f": "relu"}, X), "not an array"),
    "masses": (lambda: mo.infer_specs(two_layers, PARAMS, X, masses={"attention": 1.0}), "no role or place"),
    "masses of what the model has not": (
        lambda: mo.infer_specs(two_layers, PARAMS, X, masses={"gain": 0.1, "conv": 2.0, "head": 1.0}),
        "masses names 'gain', 'conv', but no parameter is found to be that. The roles of this model are linear, bias, "
        "its places input, hidden, head; leave the others out",
    ),
    "no masses": (lambda: mo.infer_specs(two_layers, PARAMS, X, masses=[1.0]), "masses must be a mapping"),  # pyright: ignore[reportArgumentType]
    "a negative mass": (
        lambda: mo.infer_specs(two_layers, PARAMS, X, masses={"bias": -1.0}),
        r"masses\['bias'\] must be a finite number of at least 0; got -1.0",
    ),
    "head": (lambda: mo.infer_specs(two_layers, PARAMS, X, head="RowL2"), "head must be an atomic norm .*got 'RowL2'"),  # pyright: ignore[reportArgumentType]
    "tied": (lambda: mo.infer_specs(two_layers, PARAMS, X, tied=mo.Sign), "tied must be an atomic norm .*got <class"),  # pyright: ignore[reportArgumentType]
    "unknown": (lambda: mo.infer_specs(two_layers, PARAMS, X, unknown=mo.RMS), "unknown must be an atomic norm"),  # pyright: ignore[reportArgumentType]
    "a rule with axes that do not fit": (
        lambda: mo.infer_specs(
            two_layers, PARAMS, X, overrides=mo.NormRegistry(mo.Rule("w0", mo.Spectral(), mo.Axes(3, 1)))
        ),
        r"parameter does not fit its spec(.|\n)*w0  float32\[4, 6\]: Spectral fan_in=\(3,\) names axis 3",
    ),
    "a rule for a complex weight": (
        lambda: mo.infer_specs(
            lambda p, x: (x @ p["w"]).real,
            {"w": array(4, 2, dtype=jnp.complex64)},
            X,
            overrides=mo.NormRegistry(mo.Rule("w", mo.Spectral())),
        ),
        r"w  complex64\[4, 2\]: Spectral needs real floating-point numbers; write NormSpec\(Unnormed\(\)\)",
    ),
    "sensitivity": (lambda: mo.infer_specs(two_layers, PARAMS, X, sensitivity="yes"), "must be 'unit' or 'traced'"),
    "overrides": (lambda: mo.infer_specs(two_layers, PARAMS, X, overrides=mo.RMS()), "must be a NormRegistry"),  # pyright: ignore[reportArgumentType]
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_told_what_to_do(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_an_error_inside_the_model_says_what_was_being_done():
    model = nn.Dense(3)
    with pytest.raises(Exception, match="kernel") as info:
        mo.infer_specs(lambda p, x: model.apply({"params": p}, x), {"wrong": array(4, 3)}, X)
    assert "Raised while tracing apply_fn" in "".join(info.value.__notes__)


def test_a_named_axis_is_that_of_a_vmap_around_the_model():
    def apply(p, x):
        h = x @ p["w"]
        return h - jax.lax.pmean(h, "batch") + p["b"]

    with pytest.raises(NameError, match="batch") as info:
        mo.infer_specs(apply, shapes(w=(4, 2), b=2), X)
    assert "jax.vmap(..., axis_name='batch') around the model" in "".join(info.value.__notes__)
    specs = mo.infer_specs(lambda p, x: jax.vmap(lambda x: apply(p, x), axis_name="batch")(x), shapes(w=(4, 2), b=2), X)
    assert (specs["w"].role, specs["b"].role) == ("linear", "bias")


def test_parameters_without_entries_are_left_alone():
    params = shapes(w=(4, 2), none=(0, 3))
    with pytest.warns(UserWarning, match=r"none  float32\[0, 3\]: unused: .*it has no entries"):
        specs = mo.infer_specs(lambda p, x: x @ p["w"] + p["none"].sum(), params, X)
    assert specs["none"].norm == mo.Unnormed()


def test_integers_are_left_alone():
    params = shapes(w=(4, 2)) | {"count": array(dtype=jnp.int32)}
    with pytest.warns(UserWarning, match="integers are not trained"):
        specs = mo.infer_specs(lambda p, x: x @ p["w"] * p["count"], params, X)
    assert specs["count"].norm == mo.Unnormed()


# What depends on a guess is a guess


@pytest.mark.filterwarnings("ignore:.*to check in the inferred specs")
@pytest.mark.parametrize(("model", "bias"), [("plain_varied.capsules", "b"), ("plain_varied.batch_ensemble", "b")])
def test_a_bias_along_an_axis_that_was_guessed_is_a_guess(model, bias):
    assert infer(ZOO[model]())[bias].confidence == "guess"


def softmax_of_scores(scores):
    return jax.nn.softmax(scores.astype(jnp.float32), -1).astype(scores.dtype)


@pytest.mark.filterwarnings("ignore:.*to check in the inferred specs")
@pytest.mark.parametrize(("weights", "confidence"), [(softmax_of_scores, "certain"), (jnp.tanh, "guess")])
def test_what_meets_vectors_on_both_sides_is_a_guess_unless_it_attends(weights, confidence):
    """Queries of several heads for one key, or a layer of the products of two vectors: both are this einsum."""

    def apply(p, x):
        scores = jnp.einsum("bid,dke,bje->bikj", x @ p["left"], p["w"], x @ p["right"])
        return weights(scores) @ (x @ p["values"])[:, None]

    params = shapes(left=(6, 5), right=(6, 3), w=(5, 4, 3), values=(6, 2))
    specs = mo.infer_specs(apply, params, array(2, 7, 6))
    assert specs["w"].axes == mo.Axes((0,), (1, 2))
    assert specs["w"].confidence == confidence


def test_arrays_that_are_put_on_devices_together_keep_their_roles():
    def apply(p, x):
        kernel, bias = jax.device_put((p["kernel"], p["bias"]))
        return x @ kernel + bias

    specs = mo.infer_specs(apply, shapes(kernel=(4, 3), bias=(3,)), array(5, 4))
    assert {name: spec.role for name, spec in specs.items()} == {"kernel": "linear", "bias": "bias"}
