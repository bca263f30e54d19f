"""A stage's process ends when its parent, DVC, is killed."""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""Option of Linux's prctl: the signal that a process receives when its parent dies."""


def terminate_with_parent() -> None:
    """On Linux, this process receives SIGTERM when its parent dies; elsewhere nothing happens.

    Otherwise a training run whose DVC was killed would continue while the next one starts.
    """
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit("error: the parent process died while this stage started")
