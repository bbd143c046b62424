"""Every Python block of the README runs, in order, in one namespace, and prints what the README shows below it."""

import pathlib
import re

README = pathlib.Path(__file__).parent.parent / "README.md"


def test_the_code_of_the_readme_runs_and_prints_what_stands_below_it(capsys):
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    assert [kind for kind, _ in blocks].count("python") >= 5
    namespace, compared = {}, 0
    for (kind, block), (next_kind, expected) in zip(blocks, [*blocks[1:], ("", "")], strict=True):
        if kind == "python":
            exec(compile(block, "README.md", "exec"), namespace)
            printed = capsys.readouterr().out
            if next_kind == "text":
                assert printed.split() == expected.split()
                compared += 1
    assert compared >= 1
