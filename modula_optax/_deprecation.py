"""Deprecation: one way to say that a name or an argument is on its way out."""

import warnings


def warn_deprecated(old: str, new: str, *, since: str, stacklevel: int = 3) -> None:
    """Warns that something still works, but will not for long.

    What is deprecated works, and warns, for two minor versions.

    Args:
      old: what was used, such as `"NormSpec.atoms"`.
      new: what to write instead.
      since: the version in which it was deprecated, such as `"0.2"`.
      stacklevel: frames between the user's line and this one; 3 if the deprecated function calls it itself.

    Example:
      >>> with warnings.catch_warnings(record=True) as caught:
      ...     warnings.simplefilter("always")
      ...     warn_deprecated("Old()", "New()", since="0.2")
      >>> str(caught[0].message)
      'Old() is deprecated since 0.2 and goes with 0.4; write New().'
    """
    major, minor = map(int, since.split(".")[:2])
    removed = f"{major}.{minor + 2}"
    message = f"{old} is deprecated since {since} and goes with {removed}; write {new}."
    warnings.warn(message, DeprecationWarning, stacklevel=stacklevel)
