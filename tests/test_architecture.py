"""The map of the package is of the package: every file stands in it."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
MAP = (ROOT / "ARCHITECTURE.md").read_text()


def test_every_module_of_the_package_stands_on_the_map():
    package = ROOT / "modula_optax"
    modules = {path.name for path in package.glob("_*.py")} | {
        f"{p.parent.name}/" for p in package.glob("_*/__init__.py")
    }
    tree = MAP[MAP.index("## The tree") : MAP.index("## Where to add")]
    missing = modules - {"__init__.py"} - set(re.findall(r"`(_\w+(?:\.py|/))`", tree))
    assert not missing


def test_the_map_is_two_pages():
    assert len(MAP.splitlines()) <= 140
