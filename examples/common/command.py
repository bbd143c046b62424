"""Running a command: what the user can put right is said in one line."""

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

from gpt.errors import UserError


def run_command(body: Callable[[], None]) -> int:
    """Runs the body of a command.

    Args:
      body: what it does.

    Returns:
      The exit status: 0, 1 for what the user can put right, 130 for an interruption.
    """
    try:
        body()
    except UserError as error:
        return fail(str(error), 1)
    except OSError as error:
        return fail(f"{error.filename or 'files'}: {error.strerror or error}", 1)
    except KeyboardInterrupt:
        return fail("interrupted", 130)
    return 0


def fail(message: str, status: int) -> int:
    """Reports an error in one line."""
    print(f"{Path(sys.argv[0]).name}: {textwrap.shorten(message, 500)}", file=sys.stderr)
    return status
