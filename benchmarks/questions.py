"""Measures what the page of questions in the documentation answers with: four minutes on two idle cores.

    python benchmarks/questions.py                     # everything
    python benchmarks/questions.py --only Adam signs   # these optimizers again, into the results that there are

A GPT of width 32 and depth 2 learns State of the Union bytes, once under every optimizer of a list. Its learning rates
are a factor of two apart, and the best is reported. Then come numbers of single steps: how steep they are, how much of
what a norm allows an update moves activations, and what a shared table's step is as a table and as a head.
"""

import argparse
import itertools
import json
import math
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from measure import machine

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

import modula_optax as mo
from gpt.config import Config
from gpt.corpus import load_corpus, training_batch, validation_batch
from gpt.model import GPT, predict
from gpt.training import loss

RESULTS = Path(__file__).parent / "results" / "questions.json"
CONFIG = Config(steps=150, width=32, depth=2, batch=16, context=32, validation_batch=128)


def normalize_each() -> optax.GradientTransformation:
    """Every parameter's gradient divided by its length, times the square root of its size."""

    def scale(g):
        return g * math.sqrt(g.size) / (jnp.linalg.norm(g) + 1e-20)

    return optax.stateless(lambda grads, _: jax.tree.map(scale, grads))


def normalize_all() -> optax.GradientTransformation:
    """All gradients divided by their common length."""
    return optax.stateless(lambda grads, _: jax.tree.map(lambda g: g / (optax.tree.norm(grads) + 1e-20), grads))


def with_rate(link, schedule):
    return optax.chain(optax.ema(0.9), link, optax.scale_by_learning_rate(schedule))


# each with the learning rates that are tried
OPTIMIZERS: dict[str, tuple[Any, list[float]]] = {
    "SGD": (lambda s, _: optax.sgd(s, 0.9), [0.1, 0.2, 0.4, 0.8, 1.6]),
    "SGD, all gradients of one length": (lambda s, _: with_rate(normalize_all(), s), [0.1, 0.2, 0.4, 0.8, 1.6]),
    "SGD, each gradient of its own length": (
        lambda s, _: with_rate(normalize_each(), s),
        [0.00125, 0.0025, 0.005, 0.01, 0.02],
    ),
    "signs": (lambda s, _: with_rate(optax.scale_by_sign(), s), [0.001, 0.002, 0.004, 0.008, 0.016]),
    "Adam": (lambda s, _: optax.adam(s, 0.9, 0.95), [0.005, 0.01, 0.02, 0.04]),
    "mo.modular": (lambda s, specs: mo.modular(s, specs), [0.05, 0.1, 0.2, 0.4]),
}


def main() -> None:
    """Measures and writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=OPTIMIZERS, metavar="NAME", help=f"of {', '.join(OPTIMIZERS)}")
    only = parser.parse_args().only
    corpus = load_corpus(None, CONFIG.context)
    model = GPT(CONFIG.width, CONFIG.depth, CONFIG.heads)
    params = model.init(jax.random.key(CONFIG.seed), jnp.zeros((1, 1), jnp.int32))
    specs = mo.infer_specs(partial(predict, model), params, jax.ShapeDtypeStruct((2, 8), jnp.int32))
    held_out = jnp.asarray(validation_batch(corpus, CONFIG))
    grad = jax.value_and_grad(partial(loss, model))

    def train(tx, params):
        @jax.jit
        def step(params, state, batch):
            _, grads = grad(params, batch)
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state, updates

        state = tx.init(params)
        for i in range(CONFIG.steps):
            params, state, updates = step(params, state, training_batch(corpus, CONFIG, i))
            yield params, state, updates

    def final_loss(tx) -> float:
        *_, (trained, _, _) = train(tx, params)
        return float(jax.jit(partial(loss, model))(trained, held_out))

    optimizers = json.loads(RESULTS.read_text())["optimizers"] if only else {}
    for name in only or OPTIMIZERS:
        make, rates = OPTIMIZERS[name]
        tried = {rate: final_loss(make(warm(rate), specs)) for rate in rates}
        best = min(tried, key=lambda rate: tried[rate] if math.isfinite(tried[rate]) else math.inf)
        optimizers[name] = {"loss": tried[best], "learning_rate": best, "tried": tried}
        print(f"{name:40}{tried[best]:.3f} at {best}, of {tried}", flush=True)

    alignment = {
        name: alignments(train(mo.monitor(specs, OPTIMIZERS[name][0](warm(rate), specs)), params), model, held_out)
        for name, rate in (("mo.modular", 0.05), ("Adam", optimizers["Adam"]["learning_rate"]))
    }
    record = {
        "machine": machine(),
        "optimizers": optimizers,
        "alignment": alignment,
        "attained": attained(specs, grad(params, training_batch(corpus, CONFIG, 0))[1]),
        "shared": shared(params),
    }
    print(json.dumps({name: record[name] for name in ("alignment", "attained", "shared")}, indent=1))
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")


def warm(rate: float) -> optax.Schedule:
    """Up for a tenth of the steps, then down to zero."""
    return optax.schedules.warmup_cosine_decay_schedule(0.0, rate, CONFIG.steps // 10, CONFIG.steps)


def alignments(progress, model: GPT, tokens) -> dict[str, float]:
    """What a monitor says of hidden matrices, and how far their updates move activations; at the middle of training."""
    params, state, updates = next(itertools.islice(progress, CONFIG.steps // 2 - 1, None))
    measured = mo.read_monitor(state)
    of_updates = [v for k, v in measured.items() if k.endswith("kernel/alignment") and "block" in k]
    _, captured = model.apply(params, tokens[:, :-1], capture_intermediates=True, mutable="intermediates")
    moved, random, rng = [], [], np.random.default_rng(0)
    for block in (f"block_{i}" for i in range(CONFIG.depth)):
        for layer, norm in (("mlp/up", "mlp_norm"), ("attention/value", "attention_norm")):
            part, name = layer.split("/")
            x = np.asarray(captured["intermediates"][block][norm]["__call__"][0])
            u = np.asarray(updates["params"][block][part][name]["kernel"]).reshape(CONFIG.width, -1)
            moved.append(share_of_the_bound(u, x))
            random.append(share_of_the_bound(rng.normal(size=u.shape), x))
    return {
        "update and gradient": float(np.median(of_updates)),
        "update and activations": float(np.median(moved)),
        "random matrix and activations": float(np.median(random)),
    }


def share_of_the_bound(u: np.ndarray, x: np.ndarray) -> float:
    """RMS of x U over what its spectral norm allows: 1 where activations lie along the leading direction."""
    return float(np.linalg.norm(x @ u) / (np.linalg.norm(u, 2) * np.linalg.norm(x)))


def attained(specs, grads) -> dict[str, float]:
    """Smallest and largest of norm over target in one unit step: the modular norm is the largest."""
    step, _ = mo.dualize(specs).update(grads, optax.EmptyState())
    targets = [spec.target for spec in jax.tree.leaves(specs)]
    shares = [float(n) / t for n, t in zip(jax.tree.leaves(mo.leaf_norms(step, specs)), targets, strict=True)]
    return {"smallest": min(shares), "largest": max(shares)}


def shared(params) -> dict[str, float]:
    """Norms of a unit step of one table under `Embedding` and under `Sign`: of rows, and of logits as a head."""
    gradient = jax.random.normal(jax.random.key(0), params["params"]["embed"]["embedding"].shape)
    as_table = mo.NormSpec(mo.Embedding())
    as_head = mo.NormSpec(mo.RowL2(), mo.Axes(fan_in=1, fan_out=0))
    as_both = mo.NormSpec(mo.Sign(), mo.Axes(fan_in=1, fan_out=0))
    record = {}
    for name, spec in (("Embedding", as_table), ("Sign", as_both)):
        step, _ = mo.dualize(spec).update(gradient, optax.EmptyState())
        record[name] = {
            "rows": float(mo.leaf_norms(step, as_table)),
            "logits": float(mo.leaf_norms(step, as_head)),
        }
    return record


if __name__ == "__main__":
    main()
