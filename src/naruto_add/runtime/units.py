"""Sizes in bytes: units, and how messages show them."""

MIB = 2**20
GIB = 2**30


def size_text(num_bytes: float) -> str:
    """The size in MiB or GiB."""
    if num_bytes < 0.1 * GIB:
        return f"{num_bytes / MIB:.3g} MiB"
    return f"{num_bytes / GIB:.1f} GiB"
