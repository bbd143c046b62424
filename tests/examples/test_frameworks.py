"""Modular duality in the training loops of five frameworks: what the examples do, and what stays where it is."""

import gzip
import importlib
import re
import runpy
import struct
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import ninjax as nj
import numpy as np
import optax
import pytest
from flax import nnx

import modula_optax as mo
from tests.cases import untyped

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import hello_gpt
import hello_mnist
import hello_world
import lora_nnx
from common.classify import main
from common.images import load_images


@pytest.fixture(autouse=True)
def defaults():
    # users' scripts, which run under JAX's own settings and not under the strict ones of this suite
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


# what the documentation promises of each, on digits held out
QUOTED = re.findall(
    r"`examples/(\w+)\.py` .* (\d\.\d\d) to (\d\.\d\d) \|$",
    (Path(__file__).parents[2] / "docs" / "start" / "index.md").read_text(),
    re.MULTILINE,
)


def test_every_framework_is_quoted():
    frameworks = {"linen", "nnx", "haiku", "ninjax", "equinox", "plain"}
    assert {f"image_{name}" for name in frameworks} | {"lora_nnx"} == {name for name, *_ in QUOTED}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "low", "high"), QUOTED)
def test_an_example_learns_the_digits_as_well_as_is_said_of_it(name, low, high, capsys):
    assert float(low) <= importlib.import_module(name).main() <= float(high)
    assert "loss" in capsys.readouterr().out


@pytest.mark.slow
def test_hello_mnist_learns_the_digits(capsys):
    assert main(hello_mnist.train, hello_mnist.__doc__, rate=0.05, epochs=1, argv=["--epochs=5", "--batch=32"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0] == "digits: 1437 images of 8 x 8 to train on, 360 held out"
    assert table[1].split() == ["epoch", "loss", "accuracy", "seconds"]
    assert [line.split()[0] for line in table[2:]] == ["1", "2", "3", "4", "5"]
    assert float(table[-1].split()[2]) > 0.9


@pytest.mark.slow
def test_low_rank_parameters_alone_are_trained_and_alone_have_specs():
    model = lora_nnx.MLP(16, nnx.Rngs(0))
    lora_nnx.add_lora(model, nnx.Rngs(1))
    before = {path: np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(nnx.state(model, nnx.Param))}
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(128, 4, 4, 1)).astype(np.float32), rng.integers(0, 10, 128)
    assert np.isfinite(lora_nnx.fit(model, nnx.LoRAParam, images, labels, epochs=2))
    after = dict(jax.tree.leaves_with_path(nnx.state(model, nnx.Param)))
    changed = {path: not np.array_equal(after[path], value) for path, value in before.items()}
    assert changed == {path: "lora_" in jax.tree_util.keystr(path) for path in before}


class Linear(nj.Module):
    def __init__(self, features):
        self.features = features

    def __call__(self, x):
        make = lambda: jax.random.normal(untyped(nj.seed()), (x.shape[-1], self.features))  # noqa: E731
        return x @ self.value("kernel", make)


def test_ninjax_trains_the_keys_that_its_optimizer_is_given_and_only_these():
    encoder, head = Linear(6, name="encoder"), Linear(2, name="head")  # pyright: ignore[reportCallIssue]
    # of full rank, or the direction would depend on rounding
    x, y = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate([(5, 4), (5, 2)]))

    def loss(x, y):
        return jnp.square(head(jnp.tanh(encoder(x))) - y).mean()

    registry = mo.NormRegistry(mo.Rule(r"head/kernel", mo.Spectral()))
    optimizer = nj.FromOptax(mo.modular(0.1, registry, weight_decay=0.0))(name="optimizer")
    step = nj.pure(lambda x, y: optimizer(loss, ["head"], x, y)[0])
    state = nj.init(step)({}, x, y, seed=0)
    new, _ = jax.jit(step)(state, x, y)
    assert jnp.array_equal(new["encoder/kernel"], state["encoder/kernel"])
    moved = {"head/kernel": new["head/kernel"] - state["head/kernel"]}
    assert mo.modular_norm(moved, registry) == pytest.approx(0.1, rel=0.02)

    # and with gradients taken by hand
    def by_hand(x, y):
        _, params, grads = untyped(nj.grad)(loss, ["head"])(x, y)
        updates, _ = untyped(optimizer.opt).update(grads, untyped(optimizer.opt).init(params), params)
        nj.context().update(optax.apply_updates(params, updates))

    again, _ = jax.jit(nj.pure(by_hand))(state, x, y)
    assert jnp.allclose(again["head/kernel"], new["head/kernel"], atol=1e-5)


@pytest.mark.slow
def test_hello_world_fits_random_targets(capsys):
    assert hello_world.main(["--steps=60"]) == 0
    losses = [float(line.split()[1]) for line in capsys.readouterr().out.splitlines()[-7:]]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [[], ["--original"]], ids=["defaults", "original"])
def test_hello_gpt_learns_to_predict_characters(arguments, capsys, tmp_path):
    (tmp_path / "text").write_text("modular duality, and the norms of all its parameters. " * 200)
    assert hello_gpt.main(["--steps=40", "--width=16", "--blocks=2", f"--corpus={tmp_path / 'text'}", *arguments]) == 0
    first, *_, last = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert float(last[2]) < float(first[2]) < np.log(64)


def test_hello_gpt_refuses_a_text_that_is_too_short_or_no_text(capsys, tmp_path):
    (tmp_path / "short").write_text("modular duality")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe" * 2000)
    for name, message in (("short", "too short: 15 characters"), ("bytes", "cannot read"), ("none", "cannot read")):
        assert hello_gpt.main([f"--corpus={tmp_path / name}"]) == 1
        assert message in capsys.readouterr().err


# Images from files

FILES = {"train": 30, "t10k": 20}


def write_idx(path: Path, array: np.ndarray, write=Path.write_bytes) -> None:
    write(path, struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes())


def compress(path: Path, content: bytes) -> None:
    path.with_name(path.name + ".gz").write_bytes(gzip.compress(content))


def write_images(directory: Path, write=Path.write_bytes) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    written = {}
    for part, count in FILES.items():
        written[f"{part}-images-idx3-ubyte"] = rng.integers(0, 256, (count, 6, 5), np.uint8)
        written[f"{part}-labels-idx1-ubyte"] = rng.integers(0, 10, count, np.uint8)
    for name, array in written.items():
        write_idx(directory / name, array, write)
    return written


@pytest.mark.parametrize("write", [Path.write_bytes, compress])
def test_images_are_read_from_idx_files_plain_or_compressed(tmp_path, write):
    written = write_images(tmp_path, write)
    data = load_images(tmp_path)
    np.testing.assert_array_equal(data.labels, written["train-labels-idx1-ubyte"])
    np.testing.assert_allclose(data.test_images[..., 0] * 255, written["t10k-images-idx3-ubyte"], rtol=1e-6)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


DAMAGE = {
    "an absent file": ("train-labels-idx1-ubyte", Path.unlink, "has no file train-labels-idx1-ubyte or"),
    "a cut file": ("t10k-images-idx3-ubyte", truncate, "is damaged: 597 bytes where its header says 20 x 6 x 5"),
    "another file": ("train-images-idx3-ubyte", lambda p: p.write_text("<html>"), "is not an IDX file of bytes with 3"),
    "fewer labels": (
        "t10k-labels-idx1-ubyte",
        lambda p: write_idx(p, np.zeros(19, np.uint8)),
        "t10k has 20 images and 19 labels",
    ),
    "more classes": (
        "train-labels-idx1-ubyte",
        lambda p: write_idx(p, np.full(30, 46, np.uint8)),
        "labels up to 46; the models tell ten classes",
    ),
    "another size": (
        "t10k-images-idx3-ubyte",
        lambda p: write_idx(p, np.zeros((20, 7, 5), np.uint8)),
        "images of train and t10k differ in size",
    ),
}


def refused(capsys, *arguments: str) -> str:
    """What an example says, in one line, of arguments that it refuses."""
    assert main(hello_mnist.train, hello_mnist.__doc__, rate=0.05, epochs=1, argv=list(arguments)) == 1
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    return error


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_named_with_what_is_wrong(damage, tmp_path, capsys):
    name, harm, message = DAMAGE[damage]
    write_images(tmp_path)
    harm(tmp_path / name)
    assert message in refused(capsys, f"--data={tmp_path}")


def test_a_compressed_file_that_is_damaged_is_named(tmp_path, capsys):
    write_images(tmp_path, compress)
    truncate(tmp_path / "train-images-idx3-ubyte.gz")
    assert "train-images-idx3-ubyte.gz is damaged: it cannot be decompressed" in refused(capsys, f"--data={tmp_path}")


def test_bad_arguments_are_refused_in_one_line(tmp_path, capsys):
    assert "is not a directory; Debian's package dataset-fashion-mnist" in refused(capsys, f"--data={tmp_path}/none")
    assert "--batch 2000 is more than the 1437 images" in refused(capsys, "--batch=2000")
    assert "argument --learning-rate: must be positive" in refused(capsys, "--learning-rate=0")
    assert "argument --epochs: must be at least 1" in refused(capsys, "--epochs=0")


@pytest.mark.parametrize("name", [*(name for name, *_ in QUOTED), "extend"])
def test_an_example_without_arguments_says_so_and_takes_none(name, monkeypatch, capsys):
    path = Path(__file__).parents[2] / "examples" / f"{name}.py"
    monkeypatch.setattr(sys, "argv", [str(path), "--epochs=2"])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(path), run_name="__main__")
    assert "unrecognized arguments: --epochs=2" in capsys.readouterr().err
