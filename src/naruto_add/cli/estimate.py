"""`naruto-add estimate`: memory, time and disk of the pipeline, computed before anything starts."""

import click

from naruto_add.cli.folder import pipeline_folder
from naruto_add.estimate.pictures import ASSUMED_PICTURES, num_pictures_of


@click.command(short_help="Compute the memory, time and disk that the pipeline needs.")
@click.option(
    "--gpu-memory",
    type=click.FloatRange(min=0, min_open=True),
    metavar="GIB",
    help="GPU memory; default: this machine's.",
)
@click.option(
    "--tflops",
    type=click.FloatRange(min=0, min_open=True),
    help="Sustained speed of the GPU in TFLOP/s; default: an assumed one for its model, if known.",
)
@click.option(
    "--pictures",
    type=click.IntRange(1),
    help=f"Pictures in the data set; default: those of data/dataset, else ingest.num_drawings or {ASSUMED_PICTURES}.",
)
def estimate(*, gpu_memory: float | None, tflops: float | None, pictures: int | None) -> None:
    """Compute the memory, time and disk that the pipeline needs with params.yaml.

    Memory and operations are counted by running the training steps on tensors without data, so no GPU is needed. They
    are lower bounds, to which a fixed overhead is added. Parts of the chosen losses and networks that are not counted
    are named. Times are operations divided by the speed of the GPU.

    \b
    Example:
      naruto-add estimate --gpu-memory 12
    """
    from naruto_add.config import paths
    from naruto_add.config.load import load_params
    from naruto_add.estimate.disk import dvc_links_files, largest_disk
    from naruto_add.estimate.machine import find_machine
    from naruto_add.estimate.networks import shapes_of
    from naruto_add.estimate.report import estimate_lines
    from naruto_add.estimate.tasks import all_tasks, uncounted
    from naruto_add.pipeline.base_use import check_base_use

    folder = pipeline_folder()
    params = load_params(folder / paths.PARAMS)
    check_base_use(params)
    shapes = shapes_of(params.base)
    num_pictures = pictures or num_pictures_of(paths.DATASET, params.ingest)
    disk = largest_disk(params, shapes, num_pictures=num_pictures, is_linked=dvc_links_files(folder))
    notes = [f"Computed for {num_pictures} pictures of {params.base.resolution_px} px."]
    if shapes.is_assumed:
        notes.append(f"base.model {params.base.model!r} is not available here; SD 1.5's networks are assumed.")
    tasks = all_tasks(params, shapes, num_pictures=num_pictures)
    machine = find_machine(gpu_gib=gpu_memory, tflops=tflops)
    for line in estimate_lines(tasks, disk, machine, notes=notes, uncounted=uncounted(params)):
        click.echo(line.rstrip())
