"""The command line, called in this process."""

from typer.testing import CliRunner, Result

import vocseg_lib.study.cli  # noqa: F401  # the commands
from vocseg_lib.study.cli.options import app


def vocseg(*arguments) -> Result:
    """Run a command: `exit_code`, `stdout`, `stderr`; exceptions that are bugs are raised."""
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
