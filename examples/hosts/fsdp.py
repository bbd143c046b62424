"""Fully sharded data parallelism: how parameters, optimizer state and batches are divided among all devices."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int


def mesh_of_all_devices() -> Mesh:
    """One axis, over the devices of all processes."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def sharded_like(tree: Any, mesh: Mesh) -> Any:
    """The shape and dtype of every array, with the sharding that it is to have."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=fsdp(x.shape, mesh)), tree)


def fsdp(shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """Equal parts along the longest axis that can be cut into them; what has none is whole on every device."""
    cuttable = [axis for axis, size in enumerate(shape) if size > 1 and size % mesh.size == 0]
    if not cuttable:
        return NamedSharding(mesh, PartitionSpec())
    longest = max(cuttable, key=lambda axis: shape[axis])
    return NamedSharding(mesh, PartitionSpec(*[None] * longest, "data"))


def global_batch(own_rows: Int[np.ndarray, "rows time"], mesh: Mesh) -> Int[Array, "batch time"]:
    """The batch that the rows of all processes make together; none leaves its process."""
    return jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec("data")), own_rows)


def bytes_per_device(tree: Any) -> int:
    """What one device holds of a tree of arrays."""
    return sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(tree))
