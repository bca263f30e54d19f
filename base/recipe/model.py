"""Copy the trained parts into model/, in place of the former ones: `python -m recipe.model` in base/."""

import shutil
from pathlib import Path

from naruto_add.runtime.files import new_folder
from recipe.artifacts import AUTOENCODER, DECODER, DENOISER, MODEL

CURVES = Path("curves")
PARTS = {"vae": DECODER, "text_encoder": DENOISER, "unet": DENOISER, "scheduler": DENOISER}


def assemble_model() -> None:
    """Copy each part to its place in the model, and the learning curves to curves/."""
    for name, made_in in PARTS.items():
        with new_folder(MODEL / name) as folder:
            shutil.copytree(made_in / name, folder, dirs_exist_ok=True)
    with new_folder(CURVES) as folder:
        for made_in in (AUTOENCODER, DENOISER, DECODER):
            shutil.copyfile(made_in / "curve.tsv", folder / f"{made_in.name}.tsv")
    shutil.copyfile(DENOISER / "model_index.json", MODEL / "model_index.json")


if __name__ == "__main__":
    assemble_model()
