"""Images of ten classes: scikit-learn's digits, or Fashion-MNIST (or MNIST) from files on this machine."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import ArrayLike, Float, Int

from common.idx import read_idx
from gpt.errors import UserError

HOLD_OUT = 5  # of the digits, every fifth of a random order is for testing
CHUNK = 1000


@dataclasses.dataclass(frozen=True)
class Images:
    """Images to train on, and images held out.

    Attributes:
      name: what they are.
      images: to train on, grey values from 0 to 1.
      labels: their classes, 0 to 9.
      test_images: held out.
      test_labels: their classes.
    """

    name: str
    images: Float[np.ndarray, "n height width 1"]
    labels: Int[np.ndarray, " n"]
    test_images: Float[np.ndarray, "m height width 1"]
    test_labels: Int[np.ndarray, " m"]

    def accuracy(self, predict: Callable[[np.ndarray], ArrayLike]) -> float:
        """Share of the images held out whose class has the largest of the scores, `[batch, 10]`, of `predict`."""
        right = 0
        for i in range(0, len(self.test_images), CHUNK):
            scores = np.asarray(predict(self.test_images[i : i + CHUNK]))
            right += int((scores.argmax(-1) == self.test_labels[i : i + CHUNK]).sum())
        return right / len(self.test_images)


def load_images(directory: Path | None) -> Images:
    """The IDX files in a directory, or the digits that scikit-learn carries.

    Raises:
      UserError: files are missing, damaged, or do not belong together.
    """
    return read_digits() if directory is None else read_files(directory)


def read_digits() -> Images:
    """1797 digits of 8 x 8 pixels."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError("the digits are not installed: pip install scikit-learn, or pass --data DIR") from None
    images, labels = map(np.asarray, load_digits(return_X_y=True))
    order = np.random.default_rng(0).permutation(len(images))
    images = (images[order] / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    labels = labels[order].astype(np.int32)
    held_out = np.arange(len(images)) % HOLD_OUT == 0
    return Images("digits", images[~held_out], labels[~held_out], images[held_out], labels[held_out])


def read_files(directory: Path) -> Images:
    """MNIST, Fashion-MNIST or another set in the same four files, plain or compressed."""
    if not directory.is_dir():
        raise UserError(f"--data {directory} is not a directory; Debian's package dataset-fashion-mnist has such files")
    arrays = []
    for part in ("train", "t10k"):
        images = read_idx(directory, f"{part}-images-idx3-ubyte", 3)
        labels = read_idx(directory, f"{part}-labels-idx1-ubyte", 1)
        if len(images) != len(labels) or len(images) == 0:
            raise UserError(f"{directory}: {part} has {len(images)} images and {len(labels)} labels")
        if labels.max() > 9:
            raise UserError(f"{directory}: {part} has labels up to {labels.max()}; the models tell ten classes")
        arrays += [images[..., None].astype(np.float32) / 255, labels.astype(np.int32)]
    if arrays[0].shape[1:] != arrays[2].shape[1:]:
        raise UserError(f"{directory}: images of train and t10k differ in size")
    return Images(directory.name, *arrays)
