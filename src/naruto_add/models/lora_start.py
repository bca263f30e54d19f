"""A user's own LoRA as the start of the teacher's adapters, in the layout of peft, of diffusers or of kohya's scripts.

The names of all layouts contain the path of the layer; they differ in separators, prefixes and the names of the two
factors. diffusers' own loader silently leaves out what it does not recognize, so names are matched here, completely.

kohya's files have an `alpha` for each layer. diffusers' files may have peft's settings in their metadata, and peft's
files have them in adapter_config.json in the same folder. Without any of them, alpha equals the rank.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft.utils import CONFIG_NAME
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from naruto_add.runtime.errors import StageError

KEY = "teacher.lora_start"
UNET, TEXT_ENCODER = "unet", "text_encoder"
_PEFT_PREFIX = "base_model.model."
_FACTOR = re.compile(r"^(.+?)[._]lora(?:_linear_layer)?[._](A|B|down|up)(?:\.default)?\.weight$")
_PREFIXES = {
    UNET: ("unet_", "lora_unet_", "base_model_model_"),
    TEXT_ENCODER: ("text_encoder_text_model_", "text_encoder_", "lora_te_text_model_", "lora_te1_text_model_"),
}


@dataclass(frozen=True)
class _Settings:
    """peft's settings of one network. Ranks are those of the factors, so `rank_pattern` is not needed."""

    alpha: float
    alpha_pattern: Mapping[str, float]
    use_rslora: bool

    def scale(self, layer: str, rank: int) -> float:
        """The factor of the layer's update."""
        alpha = self.alpha_pattern.get(get_pattern_key(self.alpha_pattern.keys(), layer), self.alpha)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


@dataclass(frozen=True)
class Factors:
    """The two factors of a layer's update, `up` @ `down`, and its scale."""

    down: Tensor
    up: Tensor
    scale: float

    @property
    def rank(self) -> int:
        """The number of rows of `down`."""
        return len(self.down)


def read_lora(path: Path, networks: Mapping[str, nn.Module]) -> dict[str, dict[str, Factors]]:
    """The factors of each layer, by the name of the network (`unet`, `text_encoder`) and of the layer in it.

    Raises StageError if the file cannot be read, has weights of another kind, or is for other networks.
    """
    tensors, metadata = _read(path)
    layers = {network: _flat_names(module) for network, module in networks.items()}
    halves: dict[tuple[str, str], dict[str, Tensor]] = {}
    is_peft = any(name.startswith(_PEFT_PREFIX) for name in tensors)
    settings = _peft_settings(path) if is_peft else _stated_settings(metadata, path)
    alphas: dict[tuple[str, str], float] = {}
    for name, tensor in tensors.items():
        match = _FACTOR.match(name)
        if match is None and not name.endswith(".alpha"):
            raise StageError(
                f"{KEY}: {str(path)!r} has the weight {name}, which is not one of a plain LoRA; use another"
            )
        place = _place(match[1] if match else name.removesuffix(".alpha"), layers, path)
        if match is None:
            alphas[place] = _alpha(name, tensor, path)
        else:
            halves.setdefault(place, {})["down" if match[2] in ("A", "down") else "up"] = tensor.float()
    found: dict[str, dict[str, Factors]] = {network: {} for network in networks}
    for (network, layer), half in halves.items():
        if half.keys() != {"down", "up"}:
            raise StageError(f"{KEY}: {str(path)!r} has only one of the two factors of {layer}; use a complete file")
        if min(half["down"].shape, default=0) < 1:
            raise StageError(f"{KEY}: a factor of {layer} in {str(path)!r} is empty; use another file")
        rank, alpha = len(half["down"]), alphas.get((network, layer))
        if alpha is not None:
            scale = alpha / rank
        else:
            scale = settings[network].scale(layer, rank) if network in settings else 1.0
        found[network][layer] = Factors(half["down"], half["up"], scale)
    return found


def _alpha(name: str, tensor: Tensor, path: Path) -> float:
    if tensor.numel() != 1:
        raise StageError(
            f"{KEY}: {name} in {str(path)!r} has {tensor.numel()} values, but an alpha is one number; use another file"
        )
    return float(tensor)


def _read(path: Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise StageError(f"{KEY}: {str(path)!r} cannot be read as a safetensors file ({error}); correct it") from error


def _flat_names(module: nn.Module) -> dict[str, str]:
    """The names of layers by themselves with underscores; those of a text encoder without `text_model`."""
    names = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    return {name.removeprefix("text_model.").replace(".", "_"): name for name in names}


def _place(name: str, layers: Mapping[str, Mapping[str, str]], path: Path) -> tuple[str, str]:
    flat = name.replace(".", "_").replace("_processor_", "_")
    for network, prefixes in _PREFIXES.items():
        for prefix in prefixes:
            if not flat.startswith(prefix):
                continue
            if network not in layers:
                raise StageError(
                    f"{KEY}: {str(path)!r} adapts the text encoder too; set teacher.lora_text_encoder to true"
                )
            rest = flat.removeprefix(prefix)
            for candidate in (rest, f"{rest}_0"):  # old files have `to_out` for `to_out.0`
                if candidate in layers[network]:
                    return network, layers[network][candidate]
    raise StageError(f"{KEY}: {str(path)!r} adapts {name}, which base.model does not have; use a LoRA for this base")


def _stated_settings(metadata: Mapping[str, str], path: Path) -> dict[str, _Settings]:
    """The settings of each network that a file of diffusers states in its metadata."""
    source = f"the metadata lora_adapter_metadata of {str(path)!r}"
    try:
        stated = dict(json.loads(metadata.get("lora_adapter_metadata", "{}")).items())
    except (ValueError, AttributeError) as error:
        raise _damaged(source, error) from error
    found = {
        network: {key.removeprefix(f"{network}."): value for key, value in stated.items() if key.startswith(network)}
        for network in (UNET, TEXT_ENCODER)
    }
    return {network: _settings(values, source) for network, values in found.items() if "lora_alpha" in values}


def _peft_settings(path: Path) -> dict[str, _Settings]:
    """The settings that peft wrote next to its file."""
    config = path.with_name(CONFIG_NAME)
    if not config.is_file():
        return {}
    try:
        stated = dict(json.loads(config.read_text(encoding="utf-8")).items())
    except (OSError, ValueError, AttributeError) as error:
        raise _damaged(repr(str(config)), error) from error
    return {UNET: _settings(stated, repr(str(config)))} if "lora_alpha" in stated else {}


def _settings(stated: Mapping[str, Any], source: str) -> _Settings:
    try:
        patterns = {
            re.compile(name).pattern: float(value) for name, value in (stated.get("alpha_pattern") or {}).items()
        }
        return _Settings(float(stated["lora_alpha"]), patterns, use_rslora=bool(stated.get("use_rslora")))
    except (ValueError, TypeError, AttributeError, re.error) as error:
        raise _damaged(source, error) from error


def _damaged(source: str, error: Exception) -> StageError:
    return StageError(f"{KEY}: {source} is damaged ({error}); save the LoRA again")
