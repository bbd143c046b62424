"""What README and documentation say: their code runs and prints what they show, their numbers are those of results."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))

import results  # noqa: E402

README = ROOT / "README.md"
PAGES = results.pages()
DOCUMENTS = [README, *PAGES]
# where every number is a measurement
MEASURED = [ROOT / "docs" / name for name in ("evidence.md", "speed.md")]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path) -> list[tuple[str, str]]:
    """Language and text of every block of code."""
    return re.findall(r"^```(\w+)\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)


def run(code: str, path: Path, namespace: dict) -> None:
    exec(compile(code, name_of(path), "exec"), namespace)


ALONE = [code for kind, code in blocks(README) if kind == "python"]


@pytest.mark.parametrize(
    "code", ALONE, ids=[[*re.findall(r"flax\.linen|nnx|haiku|ninjax|equinox", c), "loop"][0] for c in ALONE]
)
def test_every_block_of_the_readme_runs_as_pasted_alone(code, capsys):
    run(code, README, {})
    printed = re.findall(r"loss (\d\.\d+)", capsys.readouterr().out)
    # the loop shows that it learns
    assert ("print(" in code) == bool(printed)
    assert not printed or float(printed[-1]) < 0.5 * float(printed[0])


def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) <= 200


@pytest.mark.parametrize(
    "path", [path for path in PAGES if any(kind == "python" for kind, _ in blocks(path))], ids=name_of
)
def test_the_code_of_a_page_runs_in_order_and_prints_what_stands_below_it(path, capsys):
    namespace, found = {}, blocks(path)
    for (kind, block), (next_kind, expected) in zip(found, [*found[1:], ("", "")], strict=True):
        if kind == "python":
            run(block, path, namespace)
            printed = capsys.readouterr().out
            if next_kind == "text":
                assert printed.split() == expected.split()


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_a_document_has_the_numbers_of_the_results(path):
    text = path.read_text()
    assert results.refreshed(text) == text, "run: python docs/results.py"


@pytest.mark.parametrize("path", MEASURED, ids=name_of)
def test_no_number_of_a_page_of_measurements_is_typed_by_hand(path):
    prose = results.BLOCK.sub("", path.read_text())
    prose = results.NUMBER.sub("", re.sub(r"```.*?```|`[^`\n]*`|\]\([^)]*\)", "", prose, flags=re.DOTALL))
    assert re.findall(r"\d+\.\d+|\d+ ?%", prose) == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_every_relative_link_leads_somewhere(path):
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL))
    assert [t for t in targets if "://" not in t and not (path.parent / t).exists()] == []


def test_a_number_is_rounded_as_it_is_written(monkeypatch):
    monkeypatch.setattr(results, "load", lambda name: {"a": [{"b": 0.12345}], "c": 1234.5})
    text = "It is 0.1<!-- x/a/0/b -->, or 99 %<!-- x/a/0/b -->, of 1,000<!-- x/c -->."
    assert results.refreshed(text) == "It is 0.1<!-- x/a/0/b -->, or 12 %<!-- x/a/0/b -->, of 1,234<!-- x/c -->."
