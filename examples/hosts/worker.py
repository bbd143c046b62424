"""A process of a group: its share of the devices, of every array and of every batch.

Run by `launch.py`, as `python -m hosts.worker TASK PORT PROCESS`.
"""

import os
import sys
import traceback
from functools import partial

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from gpt.checkpoint import read_state, write_state
from gpt.corpus import Corpus, load_corpus, training_batch
from gpt.training import State, make_step
from hosts.fsdp import bytes_per_device, global_batch, mesh_of_all_devices, sharded_like
from hosts.problem import Problem, Step, run_steps, set_up
from hosts.task import Report, Task


def main(task: Task, port: int, process: int) -> None:
    """Does its part of a task, together with the other processes of the group."""
    join_group(task, port, process)
    mesh = mesh_of_all_devices()
    # in force from here on: what is compiled can see which devices there are to spread work over
    jax.sharding.set_mesh(mesh)
    corpus = load_corpus(task.corpus, task.problem.context)
    state, step = start_or_restore(task, mesh)
    state, losses = run_steps(step, state, partial(batch_of_group, corpus, task.problem, mesh), task.until)
    # every process writes the shards that it holds
    write_state(task.out / "state", state)
    if process == 0:
        Report(losses, bytes_per_device(state)).write(task.out)


def join_group(task: Task, port: int, process: int) -> None:
    """Makes the devices of all processes visible in each of them."""
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        f"127.0.0.1:{port}",
        num_processes=task.layout.processes,
        process_id=process,
        initialization_timeout=task.timeout,
        # the default is to listen on every interface of the machine
        coordinator_bind_address=f"127.0.0.1:{port}",
    )


def start_or_restore(task: Task, mesh: Mesh) -> tuple[State, Step]:
    """The state in shards, as it is made or read, and the step that keeps it so."""
    initial_state, model, tx = set_up(task.problem)
    like = sharded_like(jax.eval_shape(initial_state), mesh)
    shardings = jax.tree.map(lambda x: x.sharding, like)
    if task.restore is None:
        state = jax.jit(initial_state, out_shardings=shardings)()
    else:
        state = read_state(task.restore / "state", like)
    # without these the compiler may return another sharding, and the second step would be compiled anew
    results = shardings, NamedSharding(mesh, PartitionSpec())
    return state, jax.jit(make_step(model, tx), out_shardings=results, donate_argnums=0)


def batch_of_group(corpus: Corpus, problem: Problem, mesh: Mesh, position: int) -> Int[Array, "batch time"]:
    """The batch of this position, to which each process adds its rows."""
    batch = training_batch(corpus, problem, position)
    return global_batch(np.split(batch, jax.process_count())[jax.process_index()], mesh)


if __name__ == "__main__":
    try:
        main(Task.from_json(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    except Exception as error:
        traceback.print_exc()
        # last, where the parent looks
        print(f"{type(error).__name__}: {error}".splitlines()[0], file=sys.stderr, flush=True)
        # not `sys.exit`: at exit JAX waits for the other processes, and those wait for this one
        os._exit(1)
