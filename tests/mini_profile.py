"""The parameters of profile mini, composed from profiles/, whatever params.yaml contains."""

from pathlib import Path

from ruamel.yaml import YAML

from naruto_add.config.load import parse_params
from naruto_add.config.profiles import compose_profile
from naruto_add.config.schema import Params

ROOT = Path(__file__).parent.parent


def mini_params() -> Params:
    """All sections."""
    return parse_params(YAML(typ="safe").load(compose_profile("mini", root=ROOT)))
