"""IDX files, the format of MNIST and its successors: two zero bytes, a type, the sizes, then all entries."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from gpt.errors import UserError

UNSIGNED_BYTE = 8


def read_idx(directory: Path, name: str, ndim: int) -> np.ndarray:
    """The array of bytes in `directory/name` or `directory/name.gz`.

    Args:
      directory: where the file is.
      name: of the file, such as `train-images-idx3-ubyte`.
      ndim: how many axes the array must have.

    Raises:
      UserError: there is no such file, it is damaged, or it holds something else.
    """
    path = next((path for path in (directory / name, directory / f"{name}.gz") if path.is_file()), None)
    if path is None:
        raise UserError(f"{directory} has no file {name} or {name}.gz")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise UserError(f"{path} is damaged: it cannot be decompressed") from None
    header = 4 + 4 * ndim
    if len(content) < header or content[:4] != bytes([0, 0, UNSIGNED_BYTE, ndim]):
        raise UserError(f"{path} is not an IDX file of bytes with {ndim} axes")
    shape = tuple(np.frombuffer(content[4:header], ">u4").tolist())
    if len(content) - header != math.prod(shape):
        expected = " x ".join(map(str, shape))
        raise UserError(f"{path} is damaged: {len(content) - header} bytes where its header says {expected}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
