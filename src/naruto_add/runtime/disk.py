"""Checks free disk before work that needs it starts, and reports a disk that cannot be written as one message."""

import errno
import os
import re
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from naruto_add.runtime.errors import StageError, with_causes
from naruto_add.runtime.units import size_text

MARGIN_BYTES = 500_000_000
"""Left free for curves, grids and other programs."""

_KEPT = (
    "the results of earlier stages and the checkpoints of this one are kept, half-written files are deleted, and "
    "`dvc repro` goes on from there"
)
_REMEDIES = {
    errno.ENOSPC: "free some disk (`dvc gc --workspace` deletes results of earlier runs)",
    errno.EDQUOT: "free some disk (`dvc gc --workspace` deletes results of earlier runs) or raise your quota",
    errno.EFBIG: "raise the limit on the size of files (`ulimit -f`), or use a disk whose file system has none",
    errno.EROFS: "move the project to a disk that can be written",
    errno.EACCES: "give yourself the permission to read it, or to write in its folder",
    errno.EPERM: "give yourself the permission to read it, or to write in its folder",
}
_RUST_ERROR = re.compile(r"\(os error (\d+)\)")
"""How errors of safetensors and of the tokenizers' files end."""


def require_free(folder: Path, num_bytes: int, *, purpose: str) -> None:
    """Raises StageError if the disk of `folder`, which need not exist yet, has less than `num_bytes` free."""
    existing = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    free, needed = shutil.disk_usage(existing).free, num_bytes + MARGIN_BYTES
    if free < needed:
        raise StageError(
            f"{folder}: {purpose} need {size_text(needed)}, but {size_text(free)} are free; free some disk "
            "(`dvc gc --workspace` deletes results of earlier runs), then run again. `naruto-add estimate` lists what "
            "all stages need"
        )


@contextmanager
def named_disk_errors(path: Path) -> Generator[None]:
    """Within the block, which writes `path`, the OSError of a disk that cannot be written names it.

    Most libraries name no file, or the temporary one beside `path`. An error that names another file stays as it is.
    """
    try:
        yield
    except StageError:
        raise
    except Exception as error:
        number, name = _found(error)
        if number is None or not (name is None or _is_partial(Path(name), path)):
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def explained_disk_error(error: BaseException) -> StageError | None:
    """The message for an error that a full disk, a read-only folder or a limit caused; None for any other error.

    The cause may be further back in the chain of errors: libraries raise errors of their own when they close a file.
    """
    number, name = _found(error)
    if number is None:
        return None
    where = name or f"a file that the error does not name, while working in {Path.cwd()}"
    return StageError(f"{where}: {os.strerror(number)}; {_REMEDIES[number]}. Nothing finished is lost: {_KEPT}")


def _found(error: BaseException) -> tuple[int | None, str | None]:
    """The number of the first error of the disk in the chain, and the name of its file if one of the chain has it."""
    numbers = [(_number(link), getattr(link, "filename", None)) for link in with_causes(error)]
    known = [(number, name) for number, name in numbers if number in _REMEDIES]
    if not known:
        return None, None
    return known[0][0], next((os.fsdecode(name) for _, name in known if isinstance(name, (str, bytes))), None)


def _number(error: BaseException) -> int | None:
    return error.errno if isinstance(error, OSError) else _rust_errno(str(error))


def _is_partial(name: Path, path: Path) -> bool:
    """Whether this is a file of the temporary folder in which `path` is written (runtime/files.py)."""
    folder = path.parent.absolute()
    if not name.absolute().is_relative_to(folder):
        return False
    first = name.absolute().relative_to(folder).parts[:1]
    return any(part.startswith((f".{path.name}-", f".{path.stem}-")) for part in first)


def _rust_errno(message: str) -> int | None:
    found = _RUST_ERROR.search(message)
    return int(found[1]) if found else None
