"""The documentation is complete: every public name has its entry, every message its cause and cure."""

import inspect
import re
import sys
from pathlib import Path

import pytest

import modula_optax as mo
from modula_optax._deprecation import warn_deprecated

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))

import messages  # noqa: E402

# submodules that are public have pages of their own
PUBLIC = {name for name in dir(mo) if not name.startswith("_") and not hasattr(getattr(mo, name), "__path__")}


def test_every_public_name_has_one_entry_in_the_api():
    pages = "".join(path.read_text() for path in (ROOT / "docs" / "api").glob("*.md"))
    entries = re.findall(r"^\.\. auto(?:class|function|module):: (?:modula_optax\.)?(\w+)$", pages, re.MULTILINE)
    assert sorted(entries) == sorted(PUBLIC)


def test_help_of_the_package_names_every_public_name():
    assert sorted(set(re.findall(r"`(\w+)`", mo.__doc__ or ""))) == sorted(PUBLIC)


def test_a_star_imports_every_public_name_and_no_other():
    assert sorted(mo.__all__) == sorted(PUBLIC)
    namespace = {}
    exec("from modula_optax import *", namespace)
    assert namespace.keys() - {"__builtins__"} == PUBLIC


def test_every_message_has_a_cause_and_a_cure():
    page = messages.page()
    found = list(messages.messages())
    assert len(found) > 100
    for message in found:
        heading = page.index(f"### {messages.explanation(message).title}\n")
        section = page[heading : page.find("\n### ", heading + 1)]
        assert message.text in section
        assert section.index("**Cause.**") < section.index("**Cure.**")


def test_every_explanation_is_of_something_that_the_package_raises():
    titles = {messages.explanation(message).title for message in messages.messages()}
    assert [e.title for e in messages.EXPLANATIONS if e.title not in titles] == []


def test_messages_are_found_and_docstrings_are_not():
    texts = {message.text for message in messages.messages()}
    assert any(text.startswith("There is no monitor in this state") for text in texts)
    assert not any("Args:" in text for text in texts)


def test_a_deprecated_name_says_what_to_write_and_when_it_goes():
    def old():
        # without the checker of arrays, whose frames users do not have
        inspect.unwrap(warn_deprecated)("old()", "new()", since="0.9")

    with pytest.warns(
        DeprecationWarning, match=r"old\(\) is deprecated since 0.9 and goes with 0.11; write new\(\)"
    ) as caught:
        old()
    # the line of the user, not one of the package
    assert caught[0].filename == __file__
