"""Runs first in every Python process of a test project: refuses the network, and logs which code a stage imports.

`$SANDBOX_LOG` names a folder. Its file `network` lists the hosts that a process tried to reach, its file `code` the
files of this project that a stage had imported when it ended. With `$SANDBOX_DISK_FULL_AT=n`, the disk is full when a
stage opens its n-th file in the working directory for writing, and from then on.
"""

import atexit
import errno
import itertools
import os
import resource
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

LOG_DIR = Path(os.environ["SANDBOX_LOG"])
PACKAGES = {"naruto_add", "stages"}
LOCAL_HOSTS = {None, "", "localhost", "127.0.0.1", "::1", socket.gethostname()}


def _note(name: str, lines: list[str]) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))  # a limit is for what the stage writes
    with (LOG_DIR / name).open("a", encoding="utf-8") as stream:
        stream.write("".join(f"{line}\n" for line in lines))


def _refuse(host: Any) -> None:
    if host not in LOCAL_HOSTS:
        _note("network", [f"{os.environ.get('DVC_STAGE', '')}\t{host}"])
        raise OSError(f"the tests' sandbox has no network: {host}")


def _guarded(connect: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(self: socket.socket, address: Any) -> Any:
        if self.family in {socket.AF_INET, socket.AF_INET6}:
            _refuse(address[0])
        return connect(self, address)

    return guarded


def _guarded_lookup(lookup: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(host: Any, *args: Any, **kwargs: Any) -> Any:
        _refuse(host)
        return lookup(host, *args, **kwargs)

    return guarded


def _note_code() -> None:
    modules = [module for name, module in list(sys.modules.items()) if name.partition(".")[0] in PACKAGES]
    files = [module.__file__ for module in modules if getattr(module, "__file__", None)]
    _note("code", [f"{os.environ.get('DVC_STAGE', '')}\t{file}" for file in files])


def _fill_disk(full_at: int) -> None:
    numbers, root = itertools.count(1), f"{Path.cwd()}{os.sep}"

    def refuse(event: str, args: tuple[Any, ...]) -> None:
        if event != "open" or not isinstance(args[0], (str, bytes)) or not args[2] & (os.O_WRONLY | os.O_RDWR):
            return
        path = str(Path.cwd() / os.fsdecode(args[0]))
        if path.startswith(root) and "__pycache__" not in path and next(numbers) >= full_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    sys.addaudithook(refuse)


socket.socket.connect = _guarded(socket.socket.connect)  # type: ignore[method-assign]
socket.socket.connect_ex = _guarded(socket.socket.connect_ex)  # type: ignore[method-assign]
socket.getaddrinfo = _guarded_lookup(socket.getaddrinfo)
atexit.register(_note_code)
if full_at := os.environ.get("SANDBOX_DISK_FULL_AT"):
    _fill_disk(int(full_at))
