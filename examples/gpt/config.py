"""What is trained, and on what schedule: all that a result depends on besides the corpus and the optimizer."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Config:
    """Size of the model, length of the training, and the seed of everything random.

    Attributes:
      steps: optimizer steps.
      width: size of the residual stream, a multiple of 16.
      depth: number of transformer blocks.
      seed: of the initial weights, of the order of the data and of the sampled text.
      batch: sequences per step.
      context: bytes per sequence.
      validation_batch: sequences that validation losses are measured on, the same every time.
    """

    steps: int = 300
    width: int = 128
    depth: int = 4
    seed: int = 0
    batch: int = 32
    context: int = 64
    validation_batch: int = 256

    @property
    def heads(self) -> int:
        """Attention heads, of 32 features each where that divides the width."""
        return self.width // (32 if self.width % 32 == 0 else 16)

    @property
    def parameters(self) -> int:
        """Number of weights: embedding and head, then kernels and gains of every block, then the last gain."""
        return 2 * 256 * self.width + self.depth * (12 * self.width**2 + 2 * self.width) + self.width

    @property
    def evaluate_every(self) -> int:
        """Steps from one validation loss to the next: thirty points make a smooth curve."""
        return max(1, self.steps // 30)

    @property
    def save_every(self) -> int:
        """Steps from one checkpoint to the next."""
        return max(1, self.steps // 10)
