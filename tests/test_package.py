"""What is published: a page without broken links, and a source distribution with what its tests need."""

import importlib.util
import inspect
import re
import tomllib
from pathlib import Path

import pytest

import modula_optax as mo

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
REPOSITORY = "https://example.org/somebody/modula_optax"


@pytest.fixture(scope="module")
def hook():
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def targets(page):
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", page, flags=re.DOTALL))


@pytest.mark.parametrize("repository", [REPOSITORY, None])
def test_no_link_of_the_package_page_is_relative(hook, repository):
    page = hook.absolute(README, repository, "v1")
    assert targets(page)
    assert [target for target in targets(page) if not target.startswith("https://")] == []
    assert ("![" in page) == (repository is not None)
    assert len(page) > 0.8 * len(README)


def test_addresses_are_those_of_the_repository_that_builds(hook):
    assert hook.repository_of({"GITHUB_SERVER_URL": "https://example.org", "GITHUB_REPOSITORY": "a/b"}).endswith("/a/b")
    assert hook.addresses(hook.repository_of({})) == {}
    assert all(address.startswith(REPOSITORY) for address in hook.addresses(REPOSITORY).values())


def test_the_version_of_the_package_has_a_dated_entry_in_the_changelog_and_is_cited():
    changelog, citation = ((ROOT / name).read_text() for name in ("CHANGELOG.md", "CITATION.cff"))
    date = re.search(rf"^## {re.escape(mo.__version__)} - (\d{{4}}-\d\d-\d\d)$", changelog, re.MULTILINE)
    assert date is not None
    assert f"version: {mo.__version__}\n" in citation
    assert f"date-released: {date[1]}\n" in citation


def test_what_tests_read_is_in_the_source_distribution():
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["sdist"]
    for needed in ("/tests", "/examples", "/benchmarks", "/docs", "/conftest.py", "/Makefile", "/hatch_build.py"):
        assert needed in build["include"]
    assert not any(pattern.endswith((".json", ".jsonl")) for pattern in build["exclude"])


def published():
    """Every function and every class that can be made, by the names that users write."""
    places = {"mo": mo, "mo.norms": mo.norms, "mo.constraints": mo.constraints}
    found = {f"{place}.{name}": value for place, module in places.items() for name, value in vars(module).items()}
    ours = {name: x for name, x in found.items() if str(getattr(x, "__module__", "")).startswith("modula_optax.")}
    # a protocol is what others define; their example is `examples/extend.py`
    return {name: x for name, x in ours.items() if callable(x) and not getattr(x, "_is_protocol", False)}


@pytest.mark.parametrize("name", published())
def test_docstrings_say_what_goes_in_and_what_comes_out_with_an_example(name):
    value, text = published()[name], inspect.getdoc(published()[name]) or ""
    assert re.match(r"[^\n]{10,115}[.:]\n\n", text), "opens with a line of its own"
    described = set(re.findall(r"^  \**(\w+): ", text, re.MULTILINE))
    assert set(inspect.signature(value).parameters) <= described
    wanted = ["Returns:", "Example:"] if inspect.signature(value).return_annotation not in (None, value) else []
    assert [part for part in wanted if inspect.isroutine(value) and f"\n{part}\n" not in text] == []
    assert "\n  >>> " in text or (isinstance(value, type) and issubclass(value, tuple))
