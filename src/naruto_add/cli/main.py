"""The command `naruto-add`. Every heavy import is inside a command, so that `--help` and completion are fast."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from naruto_add.runtime.bytecode import exit_on_damaged_bytecode, explained_bytecode_error
from naruto_add.runtime.errors import StageError, shows_tracebacks

with exit_on_damaged_bytecode():
    import click

    from naruto_add.cli.estimate import estimate
    from naruto_add.cli.generate import generate
    from naruto_add.cli.pipeline import ablation, check, deps, report, summary
    from naruto_add.cli.profile import profile
    from naruto_add.cli.publish import publish

EPILOG = """\b
Examples:
  naruto-add generate "a man with white hair and a sword"
  naruto-add profile use sd15
  naruto-add summary

\b
Shell completion (put the line into your shell's startup file):
  bash  eval "$(_NARUTO_ADD_COMPLETE=bash_source naruto-add)"
  zsh   eval "$(_NARUTO_ADD_COMPLETE=zsh_source naruto-add)"
  fish  _NARUTO_ADD_COMPLETE=fish_source naruto-add | source

\b
Exit codes:
  0  success
  1  error; the message "error: ..." says what to do
  2  wrong usage; "error: ..." follows the usage line
"""


CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class _Error(click.ClickException):
    """Shown as `error: ...` on stderr, with exit code 1."""

    def show(self, file: Any = None) -> None:
        click.echo(f"error: {self.message}", file=file, err=True)


class _UsageError(click.UsageError):
    """Shown as click shows it, but with `error: ...` as every other message; exit code 2."""

    def show(self, file: Any = None) -> None:
        if self.ctx is not None:
            help_hint = f"Try '{self.ctx.command_path} --help' for help."
            click.echo(f"{self.ctx.get_usage()}\n{help_hint}\n", file=file, err=True)
        click.echo(f"error: {self.message}", file=file, err=True)


class _Commands(click.Group):
    """Turns the errors that concern the user into messages."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse the options of `naruto-add` itself."""
        with _own_usage_errors():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, with one message for an error that concerns the user."""
        try:
            with _own_usage_errors():  # of the sub-commands, which are parsed here
                return super().invoke(ctx)
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except Exception as error:
            message = _message(error)
            if message is None or shows_tracebacks():
                raise
            raise _Error(message) from error


@contextmanager
def _own_usage_errors() -> Iterator[None]:
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        raise _UsageError(error.format_message(), error.ctx) from error


def _message(error: Exception) -> str | None:
    """The message for an error that concerns the user, with escapes in foreign names; None for any other error."""
    if damaged := explained_bytecode_error(error):  # asked first: these imports may meet the same compiled module
        return str(damaged)
    from naruto_add.config.load import ParamsError
    from naruto_add.runtime.disk import explained_disk_error

    if isinstance(error, (ParamsError, StageError, FileNotFoundError)):
        return str(StageError(str(error)))
    explained = explained_disk_error(error)
    return None if explained is None else str(explained)


@click.group(cls=_Commands, epilog=EPILOG, context_settings=CONTEXT)
@click.version_option(package_name="naruto-add")
def main() -> None:
    """Turn captioned pictures into a text-to-image model that draws in a few steps.

    `dvc repro` runs the pipeline that trains the model. These commands draw with it, show its results, and switch
    between parameter profiles. Run them in the folder that contains dvc.yaml.
    """


for command in (generate, publish, profile, check, estimate, summary, report, ablation, deps):
    main.add_command(command)
