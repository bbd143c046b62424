"""The map of the package is of the package: every file stands in it, behind those that it depends on."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "modula_optax"
MAP = (ROOT / "ARCHITECTURE.md").read_text()
FIRST_COLUMN = re.findall(r"^\| (`_.*?) \|", MAP[MAP.index("## The tree") :], re.MULTILINE)
ORDER = re.findall(r"`(_\w+)(?:\.py|/)`", "".join(FIRST_COLUMN))
FILES = {path.stem: [path] if path.is_file() else sorted(path.rglob("*.py")) for path in PACKAGE.glob("_[!_]*")}


def test_every_module_of_the_package_stands_on_the_map_once():
    assert sorted(ORDER) == sorted(FILES)


def test_a_module_depends_only_on_what_stands_before_it_on_the_map():
    for name, files in FILES.items():
        imported = re.findall(r"^\s*from modula_optax\.(\w+)", "".join(map(Path.read_text, files)), re.MULTILINE)
        imported += re.findall(r"^from modula_optax import (.+)$", "".join(map(Path.read_text, files)), re.MULTILINE)
        others = {other for line in imported for other in line.split(", ")} - {name}
        assert all(ORDER.index(other) < ORDER.index(name) for other in others), name


def test_the_map_is_two_pages():
    assert len(MAP.splitlines()) <= 140


def test_every_file_of_the_tests_stands_in_their_readme():
    tests = ROOT / "tests"
    named = set(re.findall(r"`(\w+\.py)`", (tests / "README.md").read_text()))
    assert {path.name for path in tests.glob("[!_]*.py")} <= named
