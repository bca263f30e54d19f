"""A user's own LoRA as the start of the teacher's adapters, in the layout of peft, of diffusers or of kohya's scripts.

The names of all layouts contain the path of the layer; they differ in separators, prefixes and the names of the two
factors. diffusers' own loader silently leaves out what it does not recognize, so names are matched here, completely.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from naruto_add.runtime.errors import StageError

KEY = "teacher.lora_start"
UNET, TEXT_ENCODER = "unet", "text_encoder"
_FACTOR = re.compile(r"^(.+?)[._]lora(?:_linear_layer)?[._](A|B|down|up)(?:\.default)?\.weight$")
_PREFIXES = {
    UNET: ("unet_", "lora_unet_", "base_model_model_"),
    TEXT_ENCODER: ("text_encoder_text_model_", "text_encoder_", "lora_te_text_model_", "lora_te1_text_model_"),
}


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
    scales = dict.fromkeys(networks, 1.0) | _stated_scales(metadata, path)
    alphas: dict[tuple[str, str], float] = {}
    for name, tensor in tensors.items():
        match = _FACTOR.match(name)
        if match is None and not name.endswith(".alpha"):
            raise StageError(
                f"{KEY}: {str(path)!r} has the weight {name}, which is not one of a plain LoRA; use another"
            )
        place = _place(match[1] if match else name.removesuffix(".alpha"), layers, path)
        if match is None:
            alphas[place] = float(tensor)
        else:
            halves.setdefault(place, {})["down" if match[2] in ("A", "down") else "up"] = tensor.float()
    found: dict[str, dict[str, Factors]] = {network: {} for network in networks}
    for (network, layer), half in halves.items():
        if half.keys() != {"down", "up"}:
            raise StageError(f"{KEY}: {str(path)!r} has only one of the two factors of {layer}; use a complete file")
        alpha = alphas.get((network, layer))
        scale = scales[network] if alpha is None else alpha / len(half["down"])
        found[network][layer] = Factors(half["down"], half["up"], scale)
    return found


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


def _stated_scales(metadata: Mapping[str, str], path: Path) -> dict[str, float]:
    """alpha / rank of each network, of files of diffusers that state them; peft's and older files have scale 1."""
    try:
        stated = dict(json.loads(metadata.get("lora_adapter_metadata", "{}")).items())
        return {
            network: stated[f"{network}.lora_alpha"] / stated[f"{network}.r"]
            for network in (UNET, TEXT_ENCODER)
            if f"{network}.lora_alpha" in stated and f"{network}.r" in stated
        }
    except (ValueError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise StageError(
            f"{KEY}: the metadata lora_adapter_metadata of {str(path)!r} is damaged ({error}); save the file again"
        ) from error
