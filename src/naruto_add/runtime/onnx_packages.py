"""The packages of the extra onnx, which the project does not always have."""

from importlib.util import find_spec

from naruto_add.runtime.errors import StageError

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
INSTALL = f"uv pip install {' '.join(PACKAGES)}"


def require_onnx() -> None:
    """Raises StageError if a package is missing."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise StageError(
            f"export.formats: onnx needs {', '.join(missing)}, not installed here; `{INSTALL}`, or leave onnx out"
        )
