"""Every Python block of a document runs, in order, in one namespace, and prints what the document shows below it."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent


@pytest.mark.parametrize("document", ["README.md", "docs/recipes.md"])
def test_the_code_of_a_document_runs_and_prints_what_stands_below_it(document, capsys):
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", (ROOT / document).read_text(), re.MULTILINE | re.DOTALL)
    assert [kind for kind, _ in blocks].count("python") >= 5
    namespace, compared = {}, 0
    for (kind, block), (next_kind, expected) in zip(blocks, [*blocks[1:], ("", "")], strict=True):
        if kind == "python":
            exec(compile(block, document, "exec"), namespace)
            printed = capsys.readouterr().out
            if next_kind == "text":
                assert printed.split() == expected.split()
                compared += 1
    assert compared >= 1
