"""Read params.yaml and check it completely, before any work is done."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from naruto_add.config.rules import contradictions
from naruto_add.config.schema import Params

_MAX_SHOWN_CHARS = 200


class ParamsError(ValueError):
    """A parameter cannot be used. The message names the dotted key, the value and what is allowed."""


def load_params(path: Path) -> Params:
    """Read and check the whole file.

    Raises ParamsError if the file is missing or is not YAML, if a key is unknown or missing, if a value has the wrong
    type or is out of range, or if values contradict each other.
    """
    return parse_params(read_yaml(path))


def read_yaml(path: Path) -> Any:
    """The unchecked content of a YAML file. Raises ParamsError if it is missing or is not YAML."""
    try:
        return YAML(typ="safe").load(path)
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such file; `naruto-add profile use mini` writes params.yaml") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path}: not YAML: {error}") from None
    except (ValueError, OverflowError, RecursionError) as error:  # impossible dates, infinite numbers, too deep nesting
        raise ParamsError(
            f"{path}: a value cannot be read ({error}); correct it, or put it in quotes if it is text"
        ) from None


def parse_params(values: Any) -> Params:
    """Check values that have been read already. Raises ParamsError."""
    try:
        params = Params.model_validate(values)
    except ValidationError as error:
        raise ParamsError("\n".join(_describe(item) for item in error.errors())) from None
    problems = contradictions(params)
    if problems:
        raise ParamsError("\n".join(problems))
    return params


def _describe(item: Any) -> str:
    key = ".".join(str(part) for part in item["loc"]) or "params"
    match item["type"]:
        case "missing":
            return f"{key}: missing; profiles/default.yaml explains it"
        case "extra_forbidden":
            return f"{key}: {_shown(item['input'])} is not a parameter; profiles/default.yaml lists all of them"
        case _:
            return f"{key}: {_shown(item['input'])} is not allowed: {item['msg']}"


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python does not print integers of more than 4300 digits
        return "this number"
    return text if len(text) <= _MAX_SHOWN_CHARS else f"{text[:_MAX_SHOWN_CHARS]}..."
