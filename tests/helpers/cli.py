"""The command line, called in this process."""

from typer.testing import CliRunner, Result

from vocseg_lib.study.cli import app


def vocseg(*arguments) -> Result:
    """Run a command: `exit_code`, `stdout`, `stderr`; exceptions that are bugs are raised."""
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
