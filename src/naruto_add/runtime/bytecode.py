"""Reports a truncated .pyc file as one message that says what to do; entries of the program import this module first.

Some versions of Python do not notice that a full disk or a limit cuts off a file in `__pycache__`, and then fail at
every later import of the module.
"""

import sys
import traceback
from collections.abc import Generator
from contextlib import contextmanager

from naruto_add.runtime.errors import StageError, shows_tracebacks, with_causes

_READER = "_bootstrap_external"
"""The part of Python that reads compiled modules, as tracebacks name it."""


@contextmanager
def exit_on_damaged_bytecode() -> Generator[None]:
    """End with `error: ...` and status 1 if an import within the block meets a compiled module that was cut off."""
    try:
        yield
    except Exception as error:
        explained = explained_bytecode_error(error)
        if explained is None or shows_tracebacks():
            raise
        sys.exit(f"error: {explained}")


def explained_bytecode_error(error: BaseException) -> StageError | None:
    """The message for an error of Python's reader of compiled modules; None for any other error.

    It may be further back in the chain of errors: some libraries raise errors of their own when an import fails.
    """
    for link in with_causes(error):
        if path := _damaged(link):
            return StageError(
                f"{path}: this compiled module is damaged ({link}), as happens if the disk is full while Python writes "
                "it; delete it and run again"
            )
    return None


def _damaged(error: BaseException) -> str | None:
    """The compiled module that was read where this error was raised, if it was raised by reading one."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if not frames or frames[-1].f_code.co_name != "_compile_bytecode" or _READER not in frames[-1].f_code.co_filename:
        return None
    path = frames[-1].f_locals.get("bytecode_path")
    return path if isinstance(path, str) else None
