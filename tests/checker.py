"""The type checker of the tests: annotated shapes and dtypes of arrays, nothing else.

Wrong plain values must reach the package's own errors, as they do for users, who run no checker.
"""

from beartype import beartype
from jaxtyping import AbstractArray


def check_arrays(function):
    annotations = getattr(function, "__annotations__", {})
    arrays = {name: kind for name, kind in annotations.items() if _is_array(kind)}
    if not arrays:
        return function
    function.__annotations__ = arrays
    return beartype(function)


def _is_array(kind) -> bool:
    return isinstance(kind, type) and issubclass(kind, AbstractArray)
