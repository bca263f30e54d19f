"""How a stage runs: checks first, and errors for the user as one message."""

import sys
from collections.abc import Callable
from typing import NoReturn

from naruto_add.config import paths
from naruto_add.config.load import ParamsError, load_params
from naruto_add.config.schema import Params
from naruto_add.pipeline.base_use import check_base_use
from naruto_add.pipeline.hub import stay_offline
from naruto_add.runtime.bytecode import explained_bytecode_error
from naruto_add.runtime.disk import explained_disk_error
from naruto_add.runtime.errors import StageError, shows_tracebacks
from naruto_add.runtime.progress import close_bars


def run_checked(main: Callable[[Params], None], *, check: Callable[[Params], None] = check_base_use) -> None:
    """Check params.yaml and, by `check`, at least the base model, then run `main`, the function of a stage's script.

    `main` imports its library module itself, so that a mistake is reported before torch is loaded.

    StageError, ParamsError, FileNotFoundError, errors of a full or read-only disk and damaged bytecode become
    `error: ...` and status 1, unless tracebacks are asked for (`shows_tracebacks`). Ctrl-C exits with status 1 too,
    because DVC takes status 0 for success.
    """
    try:
        params = load_params(paths.PARAMS)
        stay_offline(params)
        check(params)
        main(params)
    except KeyboardInterrupt:
        _exit("interrupted: the next `dvc repro` runs this stage again; training resumes from its last checkpoint")
    except Exception as error:
        message = _message(error)
        if message is None or shows_tracebacks():
            raise
        _exit(f"error: {message}")


def _message(error: Exception) -> StageError | None:
    """The message for an error that concerns the user, with escapes in foreign names; None for any other error."""
    if isinstance(error, (StageError, ParamsError, FileNotFoundError)):
        return StageError(str(error))
    return explained_disk_error(error) or explained_bytecode_error(error)


def _exit(message: str) -> NoReturn:
    close_bars()
    sys.exit(message)
