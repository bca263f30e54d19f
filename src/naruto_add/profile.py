"""Copy a profile over params.yaml: `python -m naruto_add.profile NAME`, from the folder that holds dvc.yaml."""

import argparse
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from naruto_add import paths
from naruto_add.params import ParamsError, load_params

PROFILES = Path("profiles")


def switch_profile(name: str, *, root: Path, force: bool) -> None:
    """Make `params.yaml` a copy of `profiles/NAME.yaml`.

    Raises ParamsError for a name that is not there, for a profile with mistakes, and, unless `force`, where params.yaml
    holds edits that would be lost, because it is no profile's copy.
    """
    profiles = {path.stem: path for path in sorted((root / PROFILES).glob("*.yaml"))}
    if name not in profiles:
        raise ParamsError(f"{name!r} is not a profile; {root / PROFILES} has {', '.join(profiles) or 'none'}")
    load_params(profiles[name])
    target = root / paths.PARAMS
    if not force and target.exists() and not _is_copy(target, profiles.values()):
        raise ParamsError(
            f"{target} has values of your own, which would be lost; keep them as a profile "
            f"(`cp params.yaml profiles/mine.yaml`), or add --force"
        )
    _copy(profiles[name], target)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; mistakes end it with a message and status 1."""
    parser = argparse.ArgumentParser(prog="python -m naruto_add.profile", description="Switch to a profile.")
    parser.add_argument("name", help="a file's name in profiles/, without .yaml: mini, sd15")
    parser.add_argument("--force", action="store_true", help="overwrite a params.yaml that is no profile's copy")
    options = parser.parse_args(arguments)
    try:
        switch_profile(options.name, root=Path(), force=options.force)
    except ParamsError as error:
        sys.exit(f"error: {error}")
    sys.stdout.write(f"{paths.PARAMS} is now profile {options.name}; `dvc repro` runs it\n")


def _is_copy(target: Path, profiles: Iterable[Path]) -> bool:
    content = target.read_bytes()
    return any(path.read_bytes() == content for path in profiles)


def _copy(source: Path, target: Path) -> None:
    """Whole or not at all, with ordinary permissions."""
    with tempfile.TemporaryDirectory(prefix=".params-", dir=target.parent) as folder:
        partial = Path(folder) / target.name
        partial.write_bytes(source.read_bytes())
        partial.replace(target)


if __name__ == "__main__":
    main()
