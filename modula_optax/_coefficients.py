"""Coefficients of the odd functions that a polar factor is computed with: tables with their source, and a recipe."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from modula_optax._checks import as_count

Triple = tuple[float, float, float]
# a x + b x³ + c x⁵ + ..., an odd number of coefficients
Polynomial = tuple[float, ...]
Coefficients = str | Sequence[Sequence[float]]


@dataclasses.dataclass(frozen=True)
class Rational:
    """What takes x to gain · x (1 + Σ residue / (x² + pole)); `terms` are pairs of a residue and a pole."""

    gain: float
    terms: tuple[tuple[float, float], ...]


# the first may be a rational function
Steps = tuple[Polynomial | Rational, ...]


def polynomials_of(steps: Steps) -> tuple[Polynomial, ...]:
    """All of them, or all but a rational first one."""
    return tuple(step for step in steps if not isinstance(step, Rational))


COEFFICIENTS: dict[str, Steps] = {
    # Ours: each polynomial the nearest to 1 on the interval that those before it leave of [0.01, 1], as in Polar
    # Express, but of degrees 9, 9 and 17. With R = XXᵀ at hand a degree of five costs four products, of nine five, and
    # of 17 six (`in_two_products`): 13 in all, where as good a fit by quintics takes 17. Within [0.9992, 0.9993] on
    # [0.01, 1]: the last is 7e-4 smaller than it could be, since 5e-4 is what rounding in float32 adds where many
    # singular values lie close to 0.01.
    "three-step": (
        (13.91004025, -132.7781783, 438.5199057, -561.608766, 243.8180307),
        (4.823690527, -10.71070794, 9.50694718, -3.392127305, 0.4162163047),
        (
            3.585594174,
            -10.74278286,
            24.43329313,
            -36.4772687,
            35.81491864,
            -22.9195182,
            9.19639511,
            -2.099311549,
            0.2079059512,
        ),
    ),
    # the same on [0.01, 1], of degrees 5, 9, 9 and 5, in 15 products
    "four-step": (
        (8.093352351, -23.62028867, 17.44597733),
        (5.677192215, -13.23574942, 11.47958649, -3.927107002, 0.4584492911),
        (2.988800128, -4.968113451, 4.626021552, -1.979919065, 0.3111829579),
        (1.874619605, -1.25010472, 0.3748521813),
    ),
    # Ours: Zolotarev's rational function of type (5, 4), the nearest to 1 on [0.005, 1] (Nakatsukasa & Freund,
    # Computing fundamental matrix decompositions accurately, 2016), then the nearest quintic on what
    # it leaves. Two inverses and five products in place of the 13 of "three-step"; within [0.9982, 0.9995] on
    # [0.005, 1], 5e-4 smaller than it could be for rounding.
    "rational": (
        Rational(0.7721541072, ((0.02035097972, 7.853246321e-05), (0.2800054329, 0.01920639484))),
        (2.070868488, -1.675202813, 0.6038343249),
    ),
    # You Jiacheng, used by Modula; never above 0.9994 on [0, 1], within [0.996, 0.999] on [0.01, 1]
    "six-step": (
        (3955 / 1024, -8306 / 1024, 5008 / 1024),
        (3735 / 1024, -6681 / 1024, 3463 / 1024),
        (3799 / 1024, -6499 / 1024, 3211 / 1024),
        (4019 / 1024, -6385 / 1024, 2906 / 1024),
        (2677 / 1024, -3029 / 1024, 1162 / 1024),
        (2172 / 1024, -1833 / 1024, 682 / 1024),
    ),
    # You Jiacheng, used by Dion (arXiv:2504.05295); within [0.98, 1.03] on [0.01, 1], overshoots to 1.145
    "five-step": (
        (4.0848, -6.8946, 2.9270),
        (3.9505, -6.3029, 2.6377),
        (3.7418, -5.5913, 2.3037),
        (2.8769, -3.1427, 1.2046),
        (2.8366, -3.0525, 1.2012),
    ),
    # Keller Jordan, 2024; within [0.68, 1.13], overshoots to 1.202
    "muon": ((3.4445, -4.7750, 2.0315),) * 5,
    # Newton-Schulz of order five; exact in the limit, slow on small singular values
    "classical": ((15 / 8, -5 / 4, 3 / 8),) * 12,
}


def polar_express(
    steps: int, lower_bound: float = 1e-3, *, cushion: float = 0.02407327424182761, safety: float | None = None
) -> tuple[Triple, ...]:
    r"""Coefficients that are optimal for singular values in `[lower_bound, 1]`, for any number of steps.

    Each step is the odd polynomial of degree five that is nearest to 1, in the largest error, on the interval
    that the steps before it leave.

    Args:
      steps: number of triples.
      lower_bound: the smallest singular value, relative to the bound that matrices are scaled by, that
        should reach 1; in (0, 1].
      cushion: no step is designed for a ratio of smallest to largest below this, which would make
        polynomials that are too small in the middle of the interval.
      safety: divides the argument of every step but the last. What rounding puts above the interval grows up to
        24-fold in each step, to infinity for small lower bounds; `None`: 1 down to a lower bound of 1e-3, where
        float32 needs none, and 1.01 below it.

    Returns:
      One triple (a, b, c) for each step, to be passed as `coefficients`.

    Raises:
      ValueError: fewer than one step, `lower_bound` not in (0, 1], or `safety` below 1.

    Example:
      >>> [round(a, 3) for a, b, c in polar_express(3, 1e-3)]
      [8.287, 4.107, 3.949]

    References:
      Amsel et al., The Polar Express, arXiv:2505.16932, theorem 3.1 and section 4.
    """
    steps = as_count("steps", steps)
    if not 0.0 < lower_bound <= 1.0:
        raise ValueError(f"polar_express needs a lower_bound in (0, 1]; got {lower_bound!r}.")
    if safety is None:
        safety = 1.0 if lower_bound >= 1e-3 else 1.01
    if not safety >= 1.0:
        raise ValueError(f"polar_express needs a safety factor of at least 1; got {safety!r}.")
    lower, upper = float(lower_bound), 1.0
    triples = []
    for _ in range(steps):
        a, b, c = _nearest_to_one(max(lower, cushion * upper), upper)
        # a cushioned polynomial is centred for another interval: centre its ends around 1 again
        ends = _quintic(a, b, c, lower) + _quintic(a, b, c, upper)
        a, b, c = 2 * a / ends, 2 * b / ends, 2 * c / ends
        lower = _quintic(a, b, c, lower)
        upper = 2.0 - lower
        triples.append((a, b, c))
    guarded = [(a / safety, b / safety**3, c / safety**5) for a, b, c in triples[:-1]]
    return (*guarded, triples[-1])


def _quintic(a: float, b: float, c: float, x: float) -> float:
    return a * x + b * x**3 + c * x**5


def _nearest_to_one(lower: float, upper: float) -> Triple:
    """Odd quintic with the smallest largest distance from 1 on `[lower, upper]` (Remez exchange)."""
    # below this width the four points merge, and Newton-Schulz is that polynomial to rounding
    if lower / upper >= 1 - 5e-6:
        return 15 / 8 / upper, -10 / 8 / upper**3, 3 / 8 / upper**5
    inner = (3 * lower + upper) / 4, (lower + 3 * upper) / 4
    previous = math.inf
    while True:
        points = np.array([lower, *inner, upper])
        signs = np.array([1.0, -1.0, 1.0, -1.0])
        system = np.stack([points, points**3, points**5, signs], axis=1)
        a, b, c, error = (float(v) for v in np.linalg.solve(system, np.ones(4)))
        # the exchange raises the levelled error until it is the largest one; past that there is only rounding
        if abs(error - previous) <= 1e-15:
            return a, b, c
        previous = error
        # the error is largest where the derivative a + 3b x² + 5c x⁴ vanishes
        root = math.sqrt(9 * b * b - 20 * a * c)
        inner = math.sqrt((-3 * b - root) / (10 * c)), math.sqrt((-3 * b + root) / (10 * c))


def inverse_root(low: float, high: float, degree: int) -> Polynomial:
    """The polynomial that agrees with (1 + x)^(-1/2) at the Chebyshev points of [low, high]."""
    fit = np.polynomial.Chebyshev.interpolate(lambda x: (1 + x) ** -0.5, degree, [low, high])
    return tuple(float(c) for c in fit.convert(kind=np.polynomial.Polynomial).coef)


def in_two_products(polynomial: Polynomial) -> tuple[float, ...] | None:
    """Nine coefficients of a polynomial of R as those of one that takes two products once R² is there, not three.

    With T = R - 1 and Y = T² (c₁ T² + c₂ T) it is (Y + c₃ T² + c₄ T) (Y + c₅ T²) + c₆ Y + c₇ T² + c₈ T + c₉ (Sastre,
    Efficient evaluation of matrix polynomials, 2018). Around 1, where singular values end up, nothing cancels. `None`
    where these numbers would not be real.
    """
    b = np.polynomial.Polynomial(polynomial)(np.polynomial.Polynomial([1.0, 1.0])).coef
    if len(b) != 9 or b[8] <= 0.0 or b[7] == 0.0:
        return None
    c1 = math.sqrt(b[8])
    c2 = b[7] / (2 * c1)
    both = (b[6] - c2 * c2) / c1
    c4 = (b[5] - both * c2) / c1
    # c₃ + c₅ is known by now, and c₃ c₅ + c₁ c₆ and c₄ c₅ + c₂ c₆ are: a quadratic equation for c₅
    middle = both - c1 * c4 / c2
    root = middle * middle + 4 * (c1 * b[3] / c2 - b[4] + c2 * c4)
    if root < 0.0:
        return None
    c5 = (middle - math.sqrt(root)) / 2
    return tuple(map(float, (c1, c2, both - c5, c4, c5, (b[3] - c4 * c5) / c2, b[2], b[1], b[0])))


def resolve_coefficients(coefficients: Coefficients, steps: int | None = None) -> Steps:
    """The functions to apply, in order, of a table's name or of the user's own coefficients."""
    if isinstance(coefficients, str):
        if coefficients not in COEFFICIENTS:
            names = ", ".join(repr(name) for name in ("auto", *COEFFICIENTS))
            raise ValueError(
                f"Unknown coefficients {coefficients!r}. Write one of {names}, "
                "or a sequence of triples such as polar_express(8)."
            )
        functions = COEFFICIENTS[coefficients]
    else:
        functions = _polynomials(coefficients)
    if steps is None:
        return functions
    steps = as_count("steps", steps)
    return functions[:steps] + (functions[-1],) * (steps - len(functions))


def _polynomials(coefficients: Sequence[Sequence[float]]) -> tuple[Polynomial, ...]:
    """The user's own, as numbers that can be compared."""
    try:
        polynomials = tuple(tuple(float(c) for c in polynomial) for polynomial in coefficients)
    except (TypeError, ValueError):
        polynomials = ()
    if not polynomials or any(len(p) < 3 or len(p) % 2 == 0 for p in polynomials):
        raise ValueError(
            f"Coefficients must be triples (a, b, c) of a x + b x³ + c x⁵, one for each step (or five or seven "
            f"numbers, for higher degrees); got {coefficients!r}. A single triple is written ((a, b, c),)."
        )
    if not all(np.isfinite(polynomial).all() for polynomial in polynomials):
        raise ValueError(f"Coefficients must be finite numbers; got {coefficients!r}.")
    return polynomials
