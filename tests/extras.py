"""Packages that are not in requirements.lock, and the tests that need them.

Without such a package a test is skipped. `make test-extras` installs them from tests/requirements.lock and sets the
variable TEST_EXTRAS, and then a missing package is an error.
"""

import os
from importlib import import_module
from typing import Any

import pytest

ONNX = ("onnx", "onnxruntime", "onnxscript")


def need_packages(*names: str) -> tuple[Any, ...]:
    """The modules of these names."""
    load = import_module if os.environ.get("TEST_EXTRAS") else pytest.importorskip
    return tuple(load(name) for name in names)
