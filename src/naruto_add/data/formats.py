"""The picture formats that are read, by Pillow or by an optional package, and the endings of those that are not."""

from functools import cache
from importlib import import_module
from pathlib import Path, PurePosixPath

from PIL import Image

# Single bitmaps only: Pillow's other formats start programs (EPS) or hold several pictures (ICO, ICNS, PSD).
_FORMATS = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "JPEG2000", "JXL", "PNG", "PPM", "TGA", "TIFF", "WEBP")
_PACKAGE_OF = {".heic": "pillow-heif", ".heif": "pillow-heif", ".hif": "pillow-heif", ".jxl": "pillow-jxl-plugin"}
"""The optional package that reads files with this ending."""
_MODULES = ("pillow_heif", "pillow_jxl")
_UNREAD = frozenset(
    ".3fr .ai .arw .cr2 .cr3 .cur .dds .dng .djvu .emf .eps .exr .fits .hdr .icns .ico .indd .jng .jxr .kra .mng .nef "  # noqa: SIM905
    ".orf .pcx .pdf .pict .psb .psd .qoi .raf .raw .rw2 .sgi .svg .svgz .wdp .wmf .xbm .xcf .xpm".split()
)
"""Endings of other picture formats."""
LFS_POINTER = "a pointer of Git LFS, not the file; fetch the file by `git lfs pull`"


def installed_formats() -> tuple[str, ...]:
    """Pillow's names of the formats that can be read here."""
    _load_plugins()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def picture_suffixes() -> set[str]:
    """The file name endings of the formats that can be read here, in lower case with the dot."""
    formats = installed_formats()
    return {suffix for suffix, name in Image.EXTENSION.items() if name in formats}


def is_picture(file: Path) -> bool:
    """Whether the content is that of a format that can be read here, whatever the ending of the file's name."""
    signed = [name for name in installed_formats() if name != "TGA"]  # TGA files have no signature
    try:
        with Image.open(file, formats=signed):
            return True
    except Exception:  # noqa: BLE001 (decoders raise nearly every built-in error for what is no picture)
        return False


def is_unread_picture(name: str) -> bool:
    """Whether the ending is that of a picture format that cannot be read here."""
    suffix = PurePosixPath(name).suffix.lower()
    return suffix not in picture_suffixes() and (suffix in _UNREAD or suffix in _PACKAGE_OF)


def unread_detail(name: str) -> str:
    """Why a file with this ending is not read, and the remedy."""
    ending = PurePosixPath(name).suffix
    if not ending:
        return "its name has no ending; save it as PNG"
    if (package := _PACKAGE_OF.get(ending.lower())) and ending.lower() not in picture_suffixes():
        install = f"uv pip install --python .venv {package}"
        return f"{ending} is read only with the package {package}: `{install}`, or save it as PNG"
    return f"{ending} is not a supported picture format; save it as PNG"


def is_lfs_pointer(data: bytes) -> bool:
    """Whether Git LFS left its pointer in place of the file, as in a clone without it."""
    return data.startswith(b"version https://git-lfs.github.com/")


@cache
def _load_plugins() -> None:
    """Register Pillow's own formats and those of the optional packages that are installed."""
    Image.init()
    for name in _MODULES:
        try:
            module = import_module(name)  # by name, so that stages do not depend on these packages
        except ImportError:
            continue
        if hasattr(module, "register_heif_opener"):
            module.register_heif_opener()
