"""How the truth about a parameter is written down: role, fan-in \\ groups of inputs > fan-out @ taps / groups."""

import re

import modula_optax as mo


def axes_of(spec: mo.NormSpec) -> str:
    """A spec in the notation of the truth."""
    axes = spec.axes
    if axes is None:
        return f"{spec.role}"
    of_inputs = f"\\ {axes.in_groups} " if axes.in_groups > 1 else ""
    text = f"{spec.role} {_indices(axes.fan_in)}{of_inputs}> {_indices(axes.fan_out)}"
    if axes.taps:
        text += f"@ {_indices(axes.taps)}"
    return (text + (f"/ {axes.groups}" if axes.groups > 1 else "")).strip()


def pasted(message: str) -> tuple[mo.NormRegistry, list[str]]:
    """The registry that a message offers, and the patterns of what it says to fill in."""
    code = message[message.index("overrides=") :]
    left = re.findall(r"""# mo\.Rule\(r['"]([^'"]*)['"].*# (?:axes|role): say which""", code)
    return eval(code.removeprefix("overrides="), {"mo": mo}), left


def _indices(indices: tuple[int, ...]) -> str:
    return "".join(f"{i} " for i in indices)
