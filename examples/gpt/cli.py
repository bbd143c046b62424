"""The command line: what can be asked for, and one line about what cannot."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from gpt.config import Config
from gpt.contenders import CONTENDERS
from gpt.errors import UserError


class Parser(argparse.ArgumentParser):
    """Refuses bad arguments in one line, without the usage text."""

    def error(self, message: str) -> NoReturn:
        """Raises what the script reports."""
        raise UserError(f"{message} (see --help)")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The arguments, checked.

    Raises:
      UserError: an argument is unknown or has no good value.
    """
    parser = Parser(description="Trains a byte-level GPT under modular duality, Muon and AdamW, and compares them.")
    parser.add_argument("--optimizer", choices=["all", *CONTENDERS], default="all", help="default: all but whitened")
    parser.add_argument("--steps", type=whole_number(1), default=Config.steps, help="default: %(default)s")
    parser.add_argument("--width", type=width, default=Config.width, help="a multiple of 16; default: %(default)s")
    parser.add_argument("--depth", type=whole_number(1), default=Config.depth, help="default: %(default)s")
    parser.add_argument("--learning-rate", type=learning_rate, help="default: the best of each optimizer")
    parser.add_argument("--corpus", type=Path, help="a text file; default: State of the Union addresses")
    parser.add_argument("--seed", type=whole_number(0), default=Config.seed, help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("out"), help="where results go; default: %(default)s")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoints in the --out directory")
    return parser.parse_args(argv)


def whole_number(least: int) -> Callable[[str], int]:
    """A parser of integers from `least` on that fit an array index."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if not least <= value < 2**31:
            raise argparse.ArgumentTypeError(f"must be at least {least} and below 2**31; got {text}")
        return value

    return parse


def width(text: str) -> int:
    """A width that divides into heads, each of an even number of features for the rotary embedding."""
    value = whole_number(1)(text)
    if value % 16:
        raise argparse.ArgumentTypeError(f"must be a multiple of 16; got {text}")
    return value


def learning_rate(text: str) -> float:
    """A positive number."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"must be positive and finite; got {text}")
    return value
