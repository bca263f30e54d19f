"""`naruto-add generate`: pictures from prompts, drawn by diffusers or by onnxruntime."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from naruto_add.runtime.errors import StageError

if TYPE_CHECKING:
    from naruto_add.config.schema import Params

MAX_SEED = 2**31 - 1


@click.command(short_help="Draw pictures from prompts.")
@click.argument("prompts", metavar="PROMPT...", nargs=-1, required=True)
@click.option("--num", type=click.IntRange(1), default=8, show_default=True, help="Pictures per prompt.")
@click.option(
    "--seed",
    type=click.IntRange(0, MAX_SEED),
    default=0,
    show_default=True,
    help="Seed of the first picture; picture i has seed + i.",
)
@click.option(
    "--steps",
    type=click.IntRange(1, 1000),
    help="Sampling steps.  [default: what the student was trained for; sampling.teacher_steps for other models]",
)
@click.option(
    "--out",
    "out_dir",
    type=click.Path(path_type=Path),
    default=Path("pictures"),
    show_default=True,
    help="Folder for the PNG files.",
)
@click.option(
    "--model",
    "model_dir",
    type=click.Path(path_type=Path),
    default=Path("models/export"),
    show_default=True,
    help="Folder of the model in diffusers format, for example models/teacher.",
)
@click.option(
    "--guidance",
    type=click.FloatRange(1, 30),
    help="Guidance scale of a model that is not an exported student.  [default: sampling.guidance_scale]",
)
@click.option(
    "--backend",
    type=click.Choice(["torch", "onnx", "onnx_int8"]),
    default="torch",
    show_default=True,
    help="onnx, onnx_int8: draw an exported student by onnxruntime; export.formats must contain the format.",
)
@click.option("--grid", is_flag=True, help="Also write one labelled grid of all pictures.")
@click.option("--raw-prompt", is_flag=True, help="Use the prompts as they are, without base.prompt_template.")
def generate(
    *,
    prompts: tuple[str, ...],
    num: int,
    seed: int,
    steps: int | None,
    out_dir: Path,
    model_dir: Path,
    guidance: float | None,
    backend: Literal["torch", "onnx", "onnx_int8"],
    grid: bool,
    raw_prompt: bool,
) -> None:
    """Draw pictures from each PROMPT (in quotes) and print their paths and durations.

    Existing files are never overwritten. The PNG files contain prompt, seed, steps and model as text. The same model,
    prompt, seed and steps give the same picture; in diffusers, it is the picture of
    generator=torch.Generator().manual_seed(seed).

    \b
    Examples:
      naruto-add generate "a man with white hair and a sword"
      naruto-add generate "a girl with red hair" "a boy at night" --num 4 --grid
      naruto-add generate "a girl with red hair" --model models/teacher --seed 7
    """
    _check_prompts(prompts)
    _check_seeds(seed, num)
    _check_model_folder(model_dir)
    _prepare_out_folder(out_dir)
    from naruto_add.generate.picture_files import write_pictures  # torch and diffusers take seconds to import

    options: dict[str, Any] = {"num_steps": steps, "guidance_scale": guidance, "raw_prompt": raw_prompt}
    if backend == "torch":
        from naruto_add.generate.model import load_model

        model = load_model(model_dir, read_params=_read_params, **options)
    else:
        from naruto_add.generate.onnx_model import load_onnx_model

        model = load_onnx_model(model_dir, backend=backend, **options)
    seeds = range(seed, seed + num)
    for path, seconds in write_pictures(model, prompts, seeds=seeds, out_dir=out_dir, grid=grid):
        click.echo(f"{path}  {seconds:.2f} s")


def _read_params() -> "Params | None":
    from naruto_add.config import paths
    from naruto_add.config.load import load_params

    return load_params(paths.PARAMS) if paths.PARAMS.exists() else None


def _check_prompts(prompts: Sequence[str]) -> None:
    for prompt in prompts:
        if not prompt.strip():
            raise StageError(f'PROMPT: {prompt!r} is empty; describe a picture, such as "a man with white hair"')


def _check_seeds(seed: int, num: int) -> None:
    if seed + num - 1 > MAX_SEED:
        raise StageError(f"--seed: {seed} plus --num {num} exceeds the largest seed, {MAX_SEED}; use a smaller seed")


def _check_model_folder(folder: Path) -> None:
    remedy = (
        "`dvc repro` makes models/export and models/teacher; any other folder must be a pipeline saved by diffusers"
    )
    if not folder.is_dir():
        raise StageError(f"--model: {folder}: no such folder; {remedy}")
    if not (folder / "model_index.json").is_file():
        raise StageError(f"--model: {folder} is not a complete pipeline, it has no model_index.json; {remedy}")


def _prepare_out_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise StageError(f"--out: cannot write to {folder}: {error.strerror}; choose another folder") from error
