"""What users of each framework pass in the place of parameters, and what every function tells them to pass instead."""

import re

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import ninjax as nj
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import modula_optax as mo

X = jnp.ones((5, 4))
RULES = mo.NormRegistry(mo.Rule(r".*(kernel|w|weight)", mo.Spectral()), default=mo.RMS())
PARAMS = {"dense": {"kernel": jnp.ones((4, 2)), "bias": jnp.ones(2)}}
SPECS = RULES.resolve(PARAMS)


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.BatchNorm(use_running_average=True)(nn.Dense(8)(x)))


class NNX(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.fc, self.norm = nnx.Linear(4, 8, rngs=rngs), nnx.BatchNorm(8, rngs=rngs)
        self.drop = nnx.Dropout(0.1, rngs=rngs)

    def __call__(self, x):
        return self.drop(self.norm(self.fc(x)))


class Ninjax(nj.Module):
    def __call__(self, x):
        return x @ self.value("kernel", jnp.ones, (4, 3))


def linen_variables():
    return jax.jit(Linen().init)(jax.random.key(0), X)


def linen_train_state():
    return TrainState.create(apply_fn=Linen().apply, params=linen_variables()["params"], tx=optax.sgd(0.1))


def nnx_optimizer():
    return nnx.Optimizer(NNX(), optax.sgd(0.1), wrt=nnx.Param)


HAIKU = hk.transform_with_state(lambda x: hk.BatchNorm(True, True, 0.9)(hk.Linear(8)(x), is_training=True))


def equinox_module():
    return eqx.nn.MLP(4, 3, 8, 1, key=jax.random.key(0))


UNTRAINED = (
    r"4 variables are no parameters:\n  drop/rngs/count  RngCount\n(.|\n)*  norm/mean  BatchStat"
    r"(.|\n)*nnx\.state\(model, nnx\.Param\)"
)

MISTAKES = {
    "Linen, whole variables": (
        linen_variables,
        r"whole variables: 'params' beside 'batch_stats'.*pass variables\['params'\]",
    ),
    "Linen, a train state": (linen_train_state, r"A TrainState is not the parameters.*state\.params"),
    "Linen, the module": (Linen, r"A Linen is a model, not its parameters.*model\.init\(key, x\)\['params'\]"),
    "NNX, the module": (NNX, UNTRAINED),
    "NNX, the whole state": (lambda: nnx.state(NNX()), UNTRAINED),
    "NNX, a split with the graph": (lambda: nnx.split(NNX()), "4 variables are no parameters"),
    "NNX, the optimizer": (nnx_optimizer, r"step  OptState(.|\n)*nnx\.state\(model, nnx\.Param\)"),
    "Haiku, parameters and state": (
        lambda: HAIKU.init(jax.random.key(0), X),
        r"1/batch_norm/~/mean_ema(.|\n)*params, state = transformed\.init\(key, x\); pass params",
    ),
    "Haiku, the transformed function": (lambda: HAIKU, r"A TransformedWithState is a model.*transformed\.init"),
    "Ninjax, the module": (
        lambda: Ninjax(name="net"),  # pyright: ignore[reportCallIssue]
        r"1 leaf of the parameters is not an array:\n  \(root\)  Ninjax",
    ),
    "Equinox, a module with functions": (
        equinox_module,
        r"2 leaves of the parameters are not arrays:\n  activation  (.|\n)*eqx\.filter\(model, eqx\.is_inexact_array\)",
    ),
    "a number": (lambda: {"kernel": 1.0}, r"kernel  float\n(.|\n)*Of a number, make an array"),
    "specs": (lambda: {"kernel": mo.NormSpec(mo.RMS())}, r"The parameters are specs: .* in each other's place"),
}

FUNCTIONS = {
    "infer_specs": lambda tree: mo.infer_specs(lambda params, x: x, tree, X),
    "resolve": RULES.resolve,
    "modular.init": lambda tree: mo.modular(0.1, RULES).init(tree),
    "modular.update": lambda tree: mo.modular(0.1, RULES).update(tree, optax.EmptyState(), tree),
    "dualize.init": lambda tree: mo.dualize(mo.NormSpec(mo.RMS())).init(tree),
    "dualize.update": lambda tree: mo.dualize(mo.NormSpec(mo.RMS())).update(tree, optax.EmptyState()),
    "project": lambda tree: mo.project(tree, RULES),
    "keep_params_projected.init": lambda tree: mo.keep_params_projected(RULES).init(tree),
    "initialize": lambda tree: mo.initialize(jax.random.key(0), tree, RULES),
    "summarize": lambda tree: mo.summarize(RULES, tree),
    "modular_norm": lambda tree: mo.modular_norm(tree, RULES),
    "specs_from_json": lambda tree: mo.specs_from_json(mo.specs_to_json(SPECS), tree),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_is_no_tree_of_parameters_is_refused_with_what_to_pass(mistake):
    make, message = MISTAKES[mistake]
    tree = make()
    for function in FUNCTIONS.values():
        with pytest.raises(ValueError, match=message):
            function(tree)


@pytest.mark.parametrize(
    "link", [mo.scale_by_momentum, mo.average_params, mo.look_along_average, mo.keep_lengths_fixed]
)
def test_links_that_take_anything_of_arrays_refuse_functions(link):
    with pytest.raises(ValueError, match=r"2 leaves of the parameters are not arrays:\n  activation "):
        link().init(equinox_module())


def test_functions_that_were_taken_for_schedules_are_told():
    rules, mask = lambda params: RULES.resolve(params), lambda params: jax.tree.map(lambda p: p.ndim > 1, params)
    for arguments in ({"specs": rules}, {"specs": RULES, "weight_decay_mask": mask}):
        made = optax.inject_hyperparams(mo.modular)(learning_rate=0.1, **arguments)
        with pytest.raises(ValueError, match="takes functions for schedules") as error:
            made.init(PARAMS)
        advised = eval(str(error.value).split("Write\n")[1].removesuffix("(...)."))
        advised(learning_rate=0.1, **arguments).init(PARAMS)


def test_what_users_pass_rightly_is_taken():
    params = linen_variables()["params"]
    masked = {"params": params, "batch_stats": {"norm": optax.MaskedNode()}}
    separate = {"params": params, "log_temperature": jnp.ones(2)}
    fields = eqx.filter(equinox_module(), eqx.is_inexact_array)
    for tree in (masked, separate, {"params": params}, fields, nnx.state(NNX(), nnx.Param)):
        assert jax.tree.structure(RULES.resolve(tree)) == jax.tree.structure(tree)


def test_an_nnx_module_of_parameters_alone_is_a_tree_of_them():
    model = nnx.Sequential(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
    specs = mo.infer_specs(lambda model, x: model(x), model, X)
    assert mo.summarize(specs, nnx.state(model, nnx.Param)) == mo.summarize(specs, model)


# Specs that are not those of the parameters

MISFITS = {
    "of the parameters inside": (SPECS, {"params": PARAMS}, r"stands under 'params': pass that part of the parameters"),
    "of the variables around": (
        RULES.resolve({"params": PARAMS}),
        PARAMS,
        r"which has these parameters under 'params': pass specs of that part",
    ),
    "of parameters renamed since": (
        SPECS,
        {"linear": PARAMS["dense"]},
        r"no spec:\n  linear/bias  float32\[2\](.|\n)*no parameter:\n  dense/bias(.|\n)*renamed since,\nmake them anew",
    ),
    "of what was flattened": (
        SPECS,
        jnp.ones(10),
        r"no spec:\n  \(root\)  float32\[10\](.|\n)*optax.flatten makes: leave",
    ),
    "arrays": (PARAMS, PARAMS, r"dense/kernel  float32\[4, 2\]: its spec is an array; specs are made by infer_specs"),
    "a transformation": (optax.sgd(0.1), PARAMS, r"specs must be a spec tree, .*; got a transformation: write"),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_specs_of_other_parameters_are_refused_with_what_to_do(misfit):
    specs, tree, message = MISFITS[misfit]
    for use in (
        lambda: mo.modular(0.1, specs).init(tree),
        lambda: mo.dualize(specs).update(tree, optax.EmptyState()),
        lambda: mo.project(tree, specs),
        lambda: mo.initialize(jax.random.key(0), tree, specs),
        lambda: mo.summarize(specs, tree),
    ):
        with pytest.raises(ValueError, match=message):
            use()


LINKS = (
    *(mo.dualize, mo.monitor, mo.scale_by_whitened_momentum, mo.scale_by_output_moments, mo.keep_params_projected),
    *(mo.floor_relative_update, mo.brake_growth, mo.add_cautious_decay),
)


@pytest.mark.parametrize("link", LINKS, ids=lambda link: link.__name__)
def test_a_link_refuses_at_once_what_can_never_be_specs(link):
    with pytest.raises(ValueError, match=rf"got None: write mo.{link.__name__}\(specs"):
        link(None)


# Numbers, rates, dtypes and axes that nothing could be made with

NAN = float("nan")
ARGUMENTS = {
    "no rate": (lambda: mo.modular(None, SPECS), r"learning_rate of modular must be a .*; got None"),  # pyright: ignore
    "a rate that is no number": (lambda: mo.scion(NAN, SPECS), "learning_rate of scion must be a finite number"),
    "no decay": (lambda: mo.whitened(0.1, SPECS, weight_decay=None), "weight_decay of whitened"),  # pyright: ignore
    "a schedule of nothing": (
        lambda: mo.keep_params_projected(SPECS, learning_rate=lambda step: None),  # pyright: ignore
        "learning_rate of keep_params_projected must be one number for every step; its schedule gives NoneType",
    ),
    "a schedule of several": (
        lambda: mo.muon(lambda step: jnp.ones(2)),
        r"learning_rate of muon must be one number for every step; its schedule gives float32\[2\]",
    ),
    "a schedule of no step": (lambda: mo.modular(lambda: 0.1, SPECS), "a schedule; got the function <lambda>"),  # pyright: ignore
    "an average that begins with nothing": (lambda: mo.scale_by_momentum(1.0), "at least 0 and below 1; got 1.0"),
    "an average against the past": (lambda: mo.modular(0.1, SPECS, b1=-0.5), "b1 of modular must be a number of at"),
    "an average that is no number": (lambda: mo.average_params(NAN), "decay of average_params must be"),
    "an average with a schedule": (
        lambda: mo.look_along_average(decay=lambda step: 0.9),  # pyright: ignore
        r"wrap the optimizer:\noptax.inject_hyperparams\(mo.look_along_average\)\(..., decay=schedule\)",
    ),
    "no gradient": (lambda: mo.scion(0.1, SPECS, momentum=0.0), "momentum of scion must be a number above 0 and at"),
    "moments": (lambda: mo.scale_by_output_moments(SPECS, 1.0), "b2 of scale_by_output_moments must be a number of at"),
    "a metric": (lambda: mo.scale_by_whitened_momentum(SPECS, eps=-1.0), "eps of .* must be a finite number of at"),
    "a decay with a schedule": (lambda: mo.add_cautious_decay(SPECS, lambda step: 0.1), "wrap the optimizer"),  # pyright: ignore
    "a dtype of integers": (
        lambda: mo.scale_by_momentum(accumulator_dtype=jnp.int32),
        "accumulator_dtype must be a floating-point dtype, such as jnp.float32, or None; got the class int32",
    ),
    "no dtype": (lambda: mo.muon(0.1, mu_dtype="bf16"), "mu_dtype must be a floating-point dtype.*got 'bf16'"),
    "a vector's polar factor": (
        lambda: mo.polar(jnp.ones(3)),
        r"x must be an array of real matrices.*got float32\[3\]",
    ),
    "that of integers": (lambda: mo.polar(jnp.ones((3, 2), int)), r"got int32\[3, 2\]"),
    "norms of shapes": (
        lambda: mo.modular_norm(jax.ShapeDtypeStruct((3, 2), jnp.float32), mo.NormSpec(mo.Spectral())),
        r"1 parameter is a shape without values:\n  \(root\)  float32\[3, 2\]\nNorms are of arrays",
    ),
    "projections of shapes": (
        lambda: mo.project(
            jax.ShapeDtypeStruct((3, 2), jnp.float32), mo.NormSpec(mo.Spectral(), constraint=mo.UnitSphere())
        ),
        r"\(root\)  float32\[3, 2\]\nOnly arrays can be projected: pass these, or write jax.eval_shape\(",
    ),
    "a default that is a spec": (
        lambda: mo.NormRegistry(default=mo.NormSpec(mo.RMS())),  # pyright: ignore[reportArgumentType]
        r"default of NormRegistry: norm must be an atomic norm such as Spectral\(\)",
    ),
    "a registry in JSON": (lambda: mo.specs_to_json(RULES), r"specs_to_json takes a spec tree.*write registry.resolve"),
    "parameters in JSON": (
        lambda: mo.specs_to_json(PARAMS),
        r"2 leaves of the spec tree are no NormSpecs:\n  dense/bias ",
    ),
    "the name of a file": (lambda: mo.specs_from_json("specs.json"), r"such as pathlib.Path\(path\).read_text\(\)"),
    "masses of parameters": (lambda: mo.tare(PARAMS, ".*", 1.0), "leaves of the spec tree are no NormSpecs"),
    "measurements while a step is traced": (
        lambda: jax.jit(mo.read_monitor)(mo.monitor(SPECS).init(PARAMS)),
        r"write read_monitor\(state\) outside of jit",
    ),
    "one axis": (lambda: mo.dualize(SPECS, mesh_axes="data"), r"such as \('data',\), or None; got 'data'"),
    "a number of axes": (lambda: mo.project(PARAMS, SPECS, mesh_axes=2), "mesh_axes must be names"),  # pyright: ignore
}


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_arguments_that_nothing_can_be_made_with_are_refused_at_once(argument):
    make, message = ARGUMENTS[argument]
    with pytest.raises(ValueError, match=message):
        make()


def test_inferred_specs_are_refused_for_parameters_that_were_stacked_since():
    def mlp(params, x):
        return jnp.tanh(x @ params["first"]) @ params["second"]

    params = {"first": jnp.ones((4, 6)), "second": jnp.ones((6, 2))}
    specs = mo.infer_specs(mlp, params, X)
    ensemble = jax.tree.map(lambda w: jnp.stack([w, w, w]), params)
    with pytest.raises(ValueError, match="2 parameters have axes that their specs do not know") as error:
        mo.modular(0.1, specs).init(ensemble)
    assert "first  float32[3, 4, 6]: 6 layers, 1 in its spec" in str(error.value)
    # one member at a time they fit
    jax.vmap(mo.modular(0.1, specs).init)(ensemble)


def test_specs_and_optimizer_state_do_not_depend_on_how_parameters_are_sharded():
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    params = {"w": jax.random.normal(jax.random.key(0), (16, 8))}
    tx = mo.modular(0.1, mo.NormRegistry(mo.Rule(r"w", mo.Frobenius())).resolve(params))
    step = jax.jit(tx.update)
    expected, _ = step(params, tx.init(params), params)
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    moved = jax.device_put(params, sharding)
    updates, _ = step(moved, tx.init(params), moved)
    assert jnp.allclose(updates["w"], expected["w"], atol=1e-6)
    fresh = mo.initialize(jax.random.key(1), moved, mo.NormSpec(mo.Frobenius()))
    assert fresh["w"].sharding == sharding


def test_a_tree_of_arrays_may_have_methods_that_models_have():
    class Weights(eqx.Module):
        kernel: jax.Array

        def init(self):
            return self

        def apply(self, x):
            return x @ self.kernel

    assert mo.modular_norm(Weights(jnp.eye(2)), RULES) == pytest.approx(1.0)


# Models in place of the function of their parameters

LINEN = nn.Sequential([nn.Dense(3), nn.relu, nn.Dense(2)])
PURE = hk.transform(lambda x: hk.Linear(2)(x))
FUNCTIONLESS = {
    "Linen, the module": (LINEN, "apply_fn is a model"),
    "Linen, its apply without its variables": (LINEN.apply, "apply_fn is a model, or a method of one"),
    "Linen, that compiled": (jax.jit(LINEN.apply), "apply_fn is a model, or a method of one"),
    "NNX, the module": (nnx.Linear(4, 3, rngs=nnx.Rngs(0)), "With Flax NNX"),
    "NNX, the graph": (nnx.split(nnx.Linear(4, 3, rngs=nnx.Rngs(0)))[0], "apply_fn must be a function.*got GraphDef"),
    "Equinox, the module": (eqx.nn.MLP(4, 3, 8, 1, key=jax.random.key(0)), r"apply_fn\(x, \*, key=None\) does not"),
    "Equinox, for a batch": (jax.vmap(eqx.nn.MLP(4, 3, 8, 1, key=jax.random.key(0))), "does not accept what"),
    "Haiku, the transformed function": (PURE, "apply_fn must be a function.*got Transformed"),
}


@pytest.mark.parametrize("name", FUNCTIONLESS)
def test_a_model_in_place_of_a_function_is_told_with_the_function(name):
    model, message = FUNCTIONLESS[name]
    graph, rest, static, transformed = None, None, None, PURE
    if name.startswith("Linen"):
        params = LINEN.init(jax.random.key(0), X)["params"]
    elif name.startswith("NNX"):
        graph, params, rest = nnx.split(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), nnx.Param, ...)
    elif name.startswith("Equinox"):
        params, static = eqx.partition(getattr(model, "__wrapped__", model), eqx.is_inexact_array)
    else:
        params = PURE.init(jax.random.key(0), X)
    with pytest.raises(ValueError, match=message) as error:
        mo.infer_specs(model, params, X)
    advised = re.split(r", (?:after|or)|\.$", re.split(r"[wW]rite ", str(error.value))[1])[0]
    names = {"model": LINEN, "graph": graph, "rest": rest, "static": static, "transformed": transformed}
    apply = eval(advised, {"jax": jax, "nnx": nnx, "eqx": eqx, **names})
    inputs = (None, X) if name.startswith("Haiku") else (X,)
    assert all(spec.is_normed for spec in jax.tree.leaves(mo.infer_specs(apply, params, *inputs)))
    # with whole variables a method is the function
    if name.startswith("Linen, its"):
        mo.infer_specs(model, {"params": params}, X)


def test_a_function_in_place_of_specs_that_some_parameters_are_hidden_from_is_told():
    def model(params, x):
        return x @ params["dense"]["kernel"] + params["dense"]["bias"]

    def function(params):
        return mo.infer_specs(model, params, X)

    masked = optax.masked(mo.modular(0.1, function), lambda params: jax.tree.map(lambda p: p.ndim > 1, params))
    with pytest.raises(ValueError, match=r"1 parameter is masked for a function(.|\n)*  dense/bias\n") as error:
        masked.init(PARAMS)
    assert str(error.value).endswith("write specs = function(params).")
    optax.masked(mo.modular(0.1, function(PARAMS)), {"dense": {"kernel": True, "bias": False}}).init(PARAMS)
