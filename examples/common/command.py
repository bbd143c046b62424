"""Running a command: what the user can put right is said in one line."""

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

from gpt.errors import UserError


def run_command(body: Callable[[], None], program: str | None = None, interrupted: str = "interrupted") -> int:
    """Runs the body of a command.

    Args:
      body: what it does.
      program: name of the command; `None`: that of the file that was started.
      interrupted: what to say after an interruption.

    Returns:
      The exit status: 0, 1 for what the user can put right, 130 for an interruption.
    """
    try:
        body()
    except UserError as error:
        message, status = str(error), 1
    except OSError as error:
        # a full disk, a directory that has gone
        message, status = f"{error.filename or 'files'}: {error.strerror or error}", 1
    except KeyboardInterrupt:
        message, status = interrupted, 130
    else:
        return 0
    # what libraries report can be long: a line says enough
    print(f"{program or Path(sys.argv[0]).name}: {textwrap.shorten(message, 500)}", file=sys.stderr)
    return status
