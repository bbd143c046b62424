"""Numbers recorded from the original systems, Modula and Scion; see golden/README.md."""

import json
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import modula_optax as mo

pytestmark = pytest.mark.optimized

GOLDEN = pathlib.Path(__file__).parent / "golden"
ATOMS = np.load(GOLDEN / "modula_atoms.npz")
SCION = np.load(GOLDEN / "scion_lmo.npz")
NETWORKS = json.loads((GOLDEN / "modula_target_norms.json").read_text())

OUT_IN = mo.Axes(fan_in=-1, fan_out=-2)


def dualize(g, spec) -> Any:
    tx = mo.dualize(spec)
    return tx.update(jnp.asarray(g), tx.init(jnp.asarray(g)))[0]


@pytest.mark.parametrize(
    "name", [k.removesuffix("_grad") for k in ATOMS if k.startswith("linear") and k.endswith("grad")]
)
def test_linear_layers_of_modula(name):
    recorded = ATOMS[f"{name}_dualize"]
    step = dualize(ATOMS[f"{name}_grad"], mo.NormSpec(mo.Spectral("six-step"), OUT_IN, mass=0.7))
    np.testing.assert_allclose(step, recorded, atol=2e-6)
    # the default polynomials come nearer to what both are after
    step = dualize(ATOMS[f"{name}_grad"], mo.NormSpec(mo.Spectral(), OUT_IN, mass=0.7))
    assert np.linalg.norm(step - recorded, 2) < 0.005 * np.linalg.norm(recorded, 2)
    sphere = mo.NormSpec(mo.Spectral(), OUT_IN, constraint=mo.UnitSphere())
    # theirs is the six-step polynomial, up to 0.4 % short of the sphere; ours lands on it
    short = ATOMS[f"{name}_project"] - mo.project(jnp.asarray(ATOMS[f"{name}_grad"]), sphere)
    scale = np.linalg.norm(ATOMS[f"{name}_project"], 2)
    assert np.linalg.norm(short, 2) < 0.005 * scale


@pytest.mark.parametrize("name", ["embed_10x16", "embed_50x8"])
def test_embeddings_of_modula(name):
    step = dualize(ATOMS[f"{name}_grad"], mo.NormSpec(mo.Embedding(), mass=0.7))
    np.testing.assert_allclose(step, ATOMS[f"{name}_dualize"], rtol=1e-5, atol=1e-7)
    assert not step[3].any()
    sphere = mo.NormSpec(mo.Embedding(), constraint=mo.UnitSphere())
    projected = mo.project(jnp.asarray(ATOMS[f"{name}_weight"]), sphere)
    np.testing.assert_allclose(projected, ATOMS[f"{name}_project"], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("shape", ["8x8", "32x16", "16x32"])
@pytest.mark.parametrize(
    ("name", "norm", "axes", "tolerance"),
    [
        # Muon's five steps in bfloat16
        ("Spectral", mo.Spectral("muon"), OUT_IN, 3e-2),
        ("Sign", mo.Sign(), OUT_IN, 1e-6),
        ("RowNorm", mo.RowL2(), OUT_IN, 1e-5),
    ],
)
def test_linear_minimisation_oracles_of_scion(name, norm, axes, tolerance, shape):
    step = dualize(SCION[f"g_{shape}"], mo.NormSpec(norm, axes))
    np.testing.assert_allclose(step, SCION[f"{name}_{shape}"], atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("shape", ["8x8", "32x16", "16x32"])
def test_columns_of_scion_are_rows_of_an_embedding(shape):
    step = dualize(SCION[f"g_{shape}"], mo.NormSpec(mo.Embedding(), OUT_IN))
    np.testing.assert_allclose(step, SCION[f"ColNorm_{shape}"], rtol=1e-5, atol=1e-6)


def test_biases_of_scion():
    np.testing.assert_allclose(dualize(SCION["g_16"], mo.NormSpec(mo.RMS())), SCION["BiasRMS_16"], rtol=1e-5)


@pytest.mark.parametrize("blocks", [2, 4, 8])
def test_target_norms_of_the_gpt_of_modula(blocks):
    """Sensitivities by hand: 1/(2L) for each residual branch, times 1/3 in attention up to its output matrix."""
    network = NETWORKS[f"gpt_{blocks}_blocks"]

    def spec(name):
        if "." not in name:
            return mo.NormSpec(mo.Embedding() if name == "embed" else mo.Spectral())
        inner = 3.0 if name.split(".")[1] in ("v", "q", "k") else 1.0
        return mo.NormSpec(mo.Spectral(), sensitivity=1 / (2 * blocks) / inner)

    specs = {name: spec(name) for name in network["atoms"]}
    tared = mo.tare(mo.tare(specs, r"block.*", network["mass_blocks"]), r".*", 1.0)
    for name, atom in network["atoms"].items():
        assert tared[name].target == pytest.approx(atom["target_norm_exact"], rel=1e-12)


@pytest.mark.parametrize(
    ("network", "sensitivities", "masses"),
    [
        ("mlp_depth4", {f"linear{i}": 1.0 for i in range(4)}, {}),
        # y = 2 A(0.5 B(z) + z), z = 3 C(x)
        ("scaled_residual", {"C": 3 * (0.5 + 1) * 2, "B": 0.5 * 2, "A": 2.0}, {}),
        ("tared_chain", {"C": 1.0, "B": 1.0, "A": 1.0}, {"B": 4.0}),
        # y = A(B(x)) + C(x)
        ("parallel_sum", {"B": 1.0, "A": 1.0, "C": 1.0}, {}),
    ],
)
def test_target_norms_of_small_networks_of_modula(network, sensitivities, masses):
    specs = {name: mo.NormSpec(mo.Spectral(), sensitivity=s) for name, s in sensitivities.items()}
    for name, mass in masses.items():
        specs = mo.tare(specs, name, mass)
    tared = mo.tare(specs, r".*", 1.0)
    targets = {name: spec.target for name, spec in tared.items()}
    assert targets == pytest.approx(NETWORKS[network]["target_norms"], rel=1e-12)
