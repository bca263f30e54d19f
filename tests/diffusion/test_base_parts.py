"""A pipeline folder whose parts are of several models is reported by its configuration files."""

import json
import shutil
from pathlib import Path

import pytest

from naruto_add.diffusion.base_model import check_base_model
from naruto_add.diffusion.base_parts import check_parts_fit
from naruto_add.runtime.errors import StageError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def model(tiny_pipeline_dir: Path, tmp_path: Path) -> Path:
    """The tiny pipeline without its weights."""
    return Path(shutil.copytree(tiny_pipeline_dir, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors")))


def test_the_parts_of_one_model_fit(model: Path) -> None:
    check_parts_fit(model)
    check_parts_fit(ROOT / "base/model")


@pytest.mark.parametrize(
    ("file", "key", "value", "problem"),
    [
        ("unet/config.json", "in_channels", 9, "unet in_channels is 9, but vae latent_channels is 4"),
        ("unet/config.json", "out_channels", 8, "unet out_channels is 8, but unet in_channels is 4"),
        ("vae/config.json", "latent_channels", 16, "unet in_channels is 4, but vae latent_channels is 16"),
        (
            "unet/config.json",
            "cross_attention_dim",
            1024,
            "cross_attention_dim is 1024, but text_encoder hidden_size is",
        ),
        (
            "text_encoder/config.json",
            "hidden_size",
            32,
            "cross_attention_dim is 16, but text_encoder hidden_size is 32",
        ),
        ("text_encoder/config.json", "vocab_size", 100, "tokens up to 4609, but text_encoder vocab_size is 100"),
        ("text_encoder/config.json", "max_position_embeddings", 64, "max_length is 77, but .*embeddings is 64"),
    ],
)
def test_parts_that_do_not_fit_are_named_with_their_values(
    model: Path, file: str, key: str, value: int, problem: str
) -> None:
    config = json.loads((model / file).read_text())
    (model / file).write_text(json.dumps({**config, key: value}))
    with pytest.raises(StageError, match=f"base.model: .*{problem}.* all of one model"):
        check_base_model(str(model), revision="", variant="", resolution_px=32)


@pytest.mark.parametrize("file", ["text_encoder/config.json", "tokenizer/tokenizer_config.json"])
@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_a_damaged_configuration_is_named(model: Path, file: str, content: str) -> None:
    (model / file).write_text(content)
    with pytest.raises(StageError, match=f"base.model: '.*{file}' is damaged"):
        check_parts_fit(model)
