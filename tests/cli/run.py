"""Runs `naruto-add` in this process."""

from click.testing import CliRunner, Result

from naruto_add.cli.main import main


def run(*arguments: str) -> Result:
    """The exit code and the output of the command."""
    return CliRunner().invoke(main, arguments)


def run_ok(*arguments: str) -> str:
    """The output of a command that succeeds."""
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def run_error(*arguments: str) -> str:
    """The message of a command that ends with exit code 1."""
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("error: ")
    return result.stderr
