"""Who enters the panel: the defaults, the defaults with one thing changed, and others as their users set them up."""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import optax
from optax.contrib import MuonDimensionNumbers

import modula_optax as mo
from sweeps.run import Hyper

LAYERS = ("linear", "conv", "depthwise")
WARM_UP = 0.05  # of the steps


def warmed_up(peak: Any, steps: int) -> optax.Schedule:
    """Up for the first twentieth of the steps, which AdamW needs, then linearly down to zero."""
    rise = max(1, round(WARM_UP * steps))
    schedules = [optax.linear_schedule(peak / rise, peak, rise), optax.linear_schedule(peak, 0.0, max(1, steps - rise))]
    return optax.join_schedules(schedules, [rise])


class Entrant(NamedTuple):
    """An optimizer and the weights that it starts from.

    Attributes:
      transform: of a schedule, the tuned numbers and the specs.
      specs: of a function, its parameters and its inputs.
      has_norms: whether the specs say what the norms are, or only which parameter does what.
      start_at_norm_one: whether weights are initialized by their norms, in place of the network's own start.
    """

    transform: Callable[[optax.Schedule, Hyper, Any], optax.GradientTransformation]
    specs: Callable[..., Any] = mo.infer_specs
    has_norms: bool = True
    start_at_norm_one: bool = False


def modular(rate: optax.Schedule, hyper: Hyper, specs: Any, **changes: Any) -> optax.GradientTransformation:
    """The defaults; their momentum and decay are among the numbers, so that a grid of them compiles once."""
    return mo.modular(rate, specs, b1=hyper.b1, weight_decay=hyper.weight_decay, **changes)


def whitened(rate: optax.Schedule, hyper: Hyper, specs: Any, **changes: Any) -> optax.GradientTransformation:
    """The defaults with a learned metric."""
    return mo.whitened(rate, specs, b1=hyper.b1, weight_decay=hyper.weight_decay, **changes)


def is_hidden(spec: mo.NormSpec) -> bool:
    """Whether a parameter is a matrix between others, which is what decays by default."""
    return spec.role in LAYERS and spec.place == "hidden"


def decayed(hyper: Hyper, specs: Any) -> optax.GradientTransformation:
    """The decay of the defaults, as a link."""
    return optax.add_decayed_weights(hyper.weight_decay, jax.tree.map(is_hidden, specs))


def averaged(hyper: Hyper, specs: Any) -> optax.GradientTransformation:
    """The direction of `mo.modular`."""
    return optax.chain(mo.scale_by_momentum(hyper.b1), mo.dualize(specs))


def momentum_whitened(hyper: Hyper, specs: Any) -> optax.GradientTransformation:
    """The dual map of whitened momentum, which does not go back through the metric."""
    return optax.chain(mo.scale_by_whitened_momentum(specs, hyper.b1), mo.dualize(specs))


def learned(**metric: Any) -> Callable[[Hyper, Any], optax.GradientTransformation]:
    """The direction of `mo.whitened`."""
    return lambda hyper, specs: mo.dualize_whitened(specs, hyper.b1, **metric)


def linked(
    direction: Callable[[Hyper, Any], optax.GradientTransformation],
    *links: Callable[[Any], optax.GradientTransformation],
    last: Callable[[Any], optax.GradientTransformation] | None = None,
    decay: Callable[[Hyper, Any], optax.GradientTransformation] = decayed,
) -> Callable[..., optax.GradientTransformation]:
    """The chain of an alias with links added: after the direction, or at its end."""

    def transform(rate: optax.Schedule, hyper: Hyper, specs: Any) -> optax.GradientTransformation:
        return optax.chain(
            direction(hyper, specs),
            *(link(specs) for link in links),
            decay(hyper, specs),
            optax.scale_by_learning_rate(rate),
            *([last(specs)] if last else []),
        )

    return transform


def cautious(hyper: Hyper, specs: Any) -> optax.GradientTransformation:
    """Decay where it does not go against the step."""
    return mo.add_cautious_decay(specs, hyper.weight_decay)


def ahead(specs: Any) -> optax.GradientTransformation:
    """Gradients from four steps ahead, along an average of steps."""
    del specs
    return mo.look_along_average(4.0, 0.95)


def muon(rate: optax.Schedule, hyper: Hyper, specs: Any) -> optax.GradientTransformation:
    """Optax's Muon for all layers but the head, which alone decay; its Adam for the rest, at a rate of its own."""

    def numbers(spec: mo.NormSpec) -> MuonDimensionNumbers | None:
        if spec.axes is None or spec.role not in LAYERS or spec.place == "head":
            return None
        return MuonDimensionNumbers(spec.axes.taps + spec.axes.fan_in, spec.axes.fan_out)

    return optax.contrib.muon(
        rate,
        beta=hyper.b1,
        weight_decay=hyper.weight_decay,
        muon_weight_dimension_numbers=jax.tree.map(numbers, specs),
        adam_learning_rate=lambda step: hyper.second_rate * rate(step),
        adam_b2=hyper.b2,
    )


def adamw(rate: optax.Schedule, hyper: Hyper, specs: Any) -> optax.GradientTransformation:
    """AdamW for everything."""
    del specs
    return optax.adamw(rate, b1=hyper.b1, b2=hyper.b2, weight_decay=hyper.weight_decay)


def scion(rate: optax.Schedule, hyper: Hyper, specs: Any) -> optax.GradientTransformation:
    """Scion without decay."""
    return mo.scion(rate, specs, momentum=1 - hyper.b1)


def scion_specs(*model: Any) -> Any:
    """Balls as in Scion's paper: the head's 60 times that of all other matrices."""

    def ball(spec: mo.NormSpec) -> mo.NormSpec:
        radius = 60.0 if spec.place == "head" and spec.role in ("linear", "tied") else 1.0
        return dataclasses.replace(spec, mass=0.1 if spec.role in ("gain", "bias") else radius)

    return jax.tree.map(ball, mo.infer_specs(*model, head=mo.Sign(), tied=mo.Sign()))


def masses(**chosen: float) -> Callable[..., Any]:
    """The defaults, but for these masses, of those roles and places that a model has."""

    def change(spec: mo.NormSpec) -> mo.NormSpec:
        name = next((name for name in (spec.place, spec.role) if name in chosen and _counts(spec, name)), None)
        return spec if name is None else dataclasses.replace(spec, mass=chosen[name])

    def specs(*model: Any) -> Any:
        return jax.tree.map(change, mo.infer_specs(*model))

    return specs


def _counts(spec: mo.NormSpec, name: str) -> bool:
    """Whether a mass by this name is meant for a parameter: places count for matrices alone."""
    return name == spec.role or spec.role in (*LAYERS, "embedding", "tied")


def without_narrowing(*model: Any) -> Any:
    """Mass 1 for matrices that narrow, too."""

    def change(spec: mo.NormSpec) -> mo.NormSpec:
        return dataclasses.replace(spec, mass=min(spec.mass, 1.0)) if isinstance(spec.norm, mo.Spectral) else spec

    return jax.tree.map(change, mo.infer_specs(*model))


def conv_masses(rule: Callable[[int, int, int], float]) -> Callable[..., Any]:
    """The defaults, but for convolutions: their masses by taps, inputs and outputs."""

    def specs(*model: Any) -> Any:
        _, params, *_ = model

        def change(spec: mo.NormSpec, leaf: Any) -> mo.NormSpec:
            if spec.role != "conv" or spec.axes is None:
                return spec
            taps, d_in, d_out = (
                math.prod(leaf.shape[axis] for axis in axes)
                for axes in (spec.axes.taps, spec.axes.fan_in, spec.axes.fan_out)
            )
            return dataclasses.replace(spec, mass=rule(taps, d_in, d_out))

        return jax.tree.map(change, mo.infer_specs(*model), params)

    return specs


DEFAULTS = Entrant(modular)
EVERYTHING: dict[str, Any] = {"weight_decay_mask": True}

PANEL: dict[str, Entrant] = {
    "modular": DEFAULTS,
    "muon": Entrant(muon, has_norms=False),
    "adamw": Entrant(adamw, has_norms=False),
    "scion": Entrant(scion, scion_specs, start_at_norm_one=True),
    "whitened": Entrant(whitened),
    "whitened momentum": Entrant(linked(momentum_whitened)),
    "whitened, b2 0.95": Entrant(partial(whitened, b2=0.95)),
    "whitened, b2 0.98": Entrant(partial(whitened, b2=0.98)),
    "whitened, every 2": Entrant(partial(whitened, every=2)),
    "whitened, every 5": Entrant(partial(whitened, every=5)),
    "whitened, one side": Entrant(partial(whitened, max_size=64)),
    "whitened, no side": Entrant(partial(whitened, max_size=1)),
    "whitened, damping 0.1": Entrant(linked(learned(damping=0.1))),
    "whitened, damping 1e-3": Entrant(linked(learned(damping=1e-3))),
    "whitened, table 1": Entrant(whitened, masses(embedding=1.0)),
    "whitened, output moments": Entrant(linked(learned(), mo.scale_by_output_moments)),
    "whitened, floor": Entrant(linked(learned(), mo.floor_relative_update)),
    "whitened, brake": Entrant(linked(learned(), last=mo.brake_growth)),
    "whitened, cautious decay": Entrant(linked(learned(), decay=cautious)),
    "whitened, look ahead": Entrant(linked(learned(), last=ahead)),
    # a link added
    "output moments": Entrant(linked(averaged, mo.scale_by_output_moments)),
    "cautious decay": Entrant(linked(averaged, decay=cautious)),
    "look ahead": Entrant(linked(averaged, last=ahead)),
    # one choice changed at a time
    "initialize": Entrant(modular, start_at_norm_one=True),
    "decay of everything": Entrant(partial(modular, **EVERYTHING)),
    "bias 1": Entrant(modular, masses(bias=1.0)),
    "bias 0.3": Entrant(modular, masses(bias=0.3)),
    "bias 0.03": Entrant(modular, masses(bias=0.03)),
    "gain 1": Entrant(modular, masses(gain=1.0)),
    # an eighth by default for tables whose rows a matrix reads as they are, 0.3 for those that positions are added to
    "table 1": Entrant(modular, masses(embedding=1.0)),
    "table 0.25": Entrant(modular, masses(embedding=0.25)),
    "embedding 2": Entrant(modular, masses(embedding=2.0, positional=1.0)),
    "embedding 0.5": Entrant(modular, masses(embedding=0.5, positional=0.25)),
    "head 4": Entrant(modular, masses(head=4.0)),
    "head 16": Entrant(modular, masses(head=16.0)),
    "spectral head": Entrant(modular, partial(mo.infer_specs, head=mo.Spectral())),
    "heads apart": Entrant(modular, partial(mo.infer_specs, split="heads")),
    "no narrowing": Entrant(modular, without_narrowing),
    # a convolution's taps as if all saw the same, and as further inputs of one matrix
    "conv, no taps": Entrant(modular, conv_masses(lambda taps, d_in, d_out: max(1.0, d_in / d_out) ** 0.5)),
    "conv, patches": Entrant(modular, conv_masses(lambda taps, d_in, d_out: max(1.0, taps * d_in / d_out) ** 0.5)),
    "no nesterov": Entrant(partial(modular, nesterov=False)),
    "tied 1": Entrant(modular, masses(tied=1.0)),
    "tied 0.3": Entrant(modular, masses(tied=0.3)),
    "tied 0.1": Entrant(modular, masses(tied=0.1)),
}
