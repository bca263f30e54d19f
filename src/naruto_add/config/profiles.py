"""Profiles: `profiles/default.yaml` with every parameter, and overlays of it that hold only what differs.

An overlay with the key `extends` holds what differs from that other profile.
"""

import io
import re
import tempfile
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from naruto_add.config import paths
from naruto_add.config.load import ParamsError, parse_params, read_yaml

PROFILES = Path("profiles")
DEFAULT = "default"
EXTENDS = "extends"
"""Key of an overlay on the level of the sections: another profile, whose values it starts from."""
COMMENT_COLUMN = 34
"""Where the comments of values begin, unless the value is longer."""
HEADER = """\
# Profile {name}: profiles/default.yaml with the values of profiles/{name}.yaml, by `naruto-add profile use {name}`.
# The pipeline reads this file. `dvc exp run -S add.adv_weight=5` changes a value for one experiment.

"""


def profile_names(root: Path) -> list[str]:
    """The names of the profiles in `root`, sorted."""
    return sorted(path.stem for path in (root / PROFILES).glob("*.yaml") if path.stem != DEFAULT)


def current_profile(root: Path) -> str | None:
    """The profile that params.yaml was written from, or None if there is none or a value was changed since."""
    target = root / paths.PARAMS
    if not target.exists():
        return None
    named = re.match(r"# Profile (\S+):", target.read_text(encoding="utf-8"))
    if named is None or named[1] not in profile_names(root):
        return None
    composed = YAML(typ="safe").load(compose_profile(named[1], root=root))
    return named[1] if read_yaml(target) == composed else None


def compose_profile(name: str, *, root: Path) -> str:
    """The content of params.yaml for this profile, with the comments of default.yaml.

    Raises ParamsError for an unknown profile, for a key that default.yaml does not have, and for invalid values.
    """
    if name not in profile_names(root):
        raise ParamsError(
            f"{name!r} is not a profile; {root / PROFILES} has {', '.join(profile_names(root)) or 'none'}"
        )
    source = root / PROFILES / f"{DEFAULT}.yaml"
    read_yaml(source)  # raises ParamsError for a missing or damaged file
    yaml = round_trip_yaml()
    values = yaml.load(source)
    for each, overlay in _overlays(name, root=root, yaml=yaml):
        _merge(values, overlay, where=f"{PROFILES / each}.yaml")
    parse_params(YAML(typ="safe").load(_dumped(yaml, values)))
    return HEADER.format(name=name) + _without_header(_dumped(yaml, values))


def use_profile(name: str, *, root: Path, force: bool) -> None:
    """Write `params.yaml` for this profile.

    Raises ParamsError as `compose_profile` does, and unless `force`, if params.yaml has values that no profile has.
    """
    content = compose_profile(name, root=root)
    target = root / paths.PARAMS
    if not force and target.exists() and not _is_composed(target, root):
        raise ParamsError(
            f"{target} has values that are in no profile and would be lost; save it (`cp params.yaml mine.yaml`), then "
            "add --force"
        )
    _replace(target, content)


def round_trip_yaml() -> YAML:
    """A reader and writer that keeps comments and the layout of this project's YAML files."""
    yaml = YAML()
    yaml.width = 4096  # long comments and strings stay on their line
    yaml.preserve_quotes = True
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _overlays(name: str, *, root: Path, yaml: YAML) -> list[tuple[str, Any]]:
    """The names and values of the profile and of those that it extends, the most general first."""
    found: list[tuple[str, Any]] = []
    while name:
        where = f"{PROFILES / name}.yaml"
        if name not in profile_names(root):
            raise ParamsError(f"{PROFILES / found[-1][0]}.yaml: {EXTENDS}: {name!r} is not a profile")
        if name in [other for other, _ in found]:
            raise ParamsError(f"{where}: {EXTENDS}: {name!r} extends itself; name another profile")
        read_yaml(root / PROFILES / f"{name}.yaml")
        overlay = yaml.load(root / PROFILES / f"{name}.yaml")
        found.append((name, {} if overlay is None else overlay))
        name = overlay.pop(EXTENDS, "") if isinstance(overlay, MutableMapping) else ""
    return found[::-1]


def _merge(values: Any, overlay: Any, *, where: str, prefix: str = "") -> None:
    if not isinstance(overlay, Mapping):
        raise ParamsError(f"{where}: {overlay!r} has no sections; write keys as in profiles/default.yaml")
    for key, value in overlay.items():
        if key not in values:
            raise ParamsError(f"{where}: {prefix}{key} is not a parameter; profiles/default.yaml lists all of them")
        if isinstance(value, Mapping) and isinstance(values[key], Mapping):
            _merge(values[key], value, where=where, prefix=f"{prefix}{key}.")
        else:
            values[key] = value
            _align_comment(values, key)


def _align_comment(values: Any, key: str) -> None:
    """Move the comment of a changed value to the common column: the reader keeps the one of the former value."""
    comment = values.ca.items.get(key, [None] * 3)[2]
    if comment is not None:
        comment.column = COMMENT_COLUMN


def _dumped(yaml: YAML, values: Any) -> str:
    stream = io.StringIO()
    yaml.dump(values, stream)
    return stream.getvalue()


def _without_header(text: str) -> str:
    """The text from its first section on."""
    lines = text.splitlines(keepends=True)
    first = next(index for index, line in enumerate(lines) if line.strip() and not line.startswith("#"))
    return "".join(lines[first:])


def _is_composed(target: Path, root: Path) -> bool:
    """Whether the file has no values of its own: those of its keys that a profile has, are that profile's.

    So a profile can be written again after a parameter was added to default.yaml or removed from it.
    """
    values = read_yaml(target)
    return any(_agree(values, YAML(typ="safe").load(compose_profile(name, root=root))) for name in profile_names(root))


def _agree(values: Any, other: Any) -> bool:
    """Whether the keys that both mappings have hold the same values, at every depth."""
    if isinstance(values, Mapping) and isinstance(other, Mapping):
        return all(_agree(values[key], other[key]) for key in values.keys() & other.keys())
    return bool(values == other)


def _replace(target: Path, content: str) -> None:
    """Write the whole file or nothing, with ordinary permissions."""
    with tempfile.TemporaryDirectory(prefix=".params-", dir=target.parent) as folder:
        partial = Path(folder) / target.name
        partial.write_text(content, encoding="utf-8")
        partial.replace(target)
