"""Size, parity, latency and quality of every exported format: `python -m benchmarks.export_formats`.

Exports the models of the last run in all formats of `export.formats` into a temporary folder, with the checks of the
stage `export`. Then the ONNX networks in fp32 and with int8 weights draw the test captions, from the same noise, and
their pictures are measured against the test pictures; and if there is a Chromium, the demo page draws in it. Writes
benchmarks/export_formats.json, and prints the tables of docs/exports.md. It needs the extra onnx and `make demo`.

Without a GPU, times are CPU time, of one thread with OMP_NUM_THREADS=1, which other programs change little.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from benchmarks.browser import CHROMIUM, browser
from naruto_add.config import paths
from naruto_add.config.load import load_params
from naruto_add.config.schema import ExportFormat, Params
from naruto_add.data.dataset import load_split
from naruto_add.diffusion.bundle import ModelBundle, load_pipeline_folder
from naruto_add.diffusion.sampling import initial_noise
from naruto_add.evaluation.drawings import load_images
from naruto_add.evaluation.features import extract_features, load_feature_network
from naruto_add.evaluation.frechet import Features, frechet_distance
from naruto_add.export.formats import export_student
from naruto_add.export.latency import BATCHES
from naruto_add.generate.onnx_model import Backend
from naruto_add.generate.onnx_pipeline import OnnxPipeline
from naruto_add.imaging.pixels import Images
from naruto_add.losses.kernel import kernel_distance
from naruto_add.runtime.compute import default_device
from naruto_add.runtime.files import read_json, write_json
from stages.export import export_inputs

OUTPUT = Path("benchmarks/export_formats.json")
"""Not in metrics/, which is of the last run of the pipeline: a report of another profile would show these figures."""
FORMATS: tuple[ExportFormat, ...] = get_args(ExportFormat)
PAGE_DRAWINGS = 5
Figures = dict[str, float | int | str]


def main() -> None:
    """Write the figures and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-images", type=int, default=0, help="pictures of each network and seed; 0 for the split")
    parser.add_argument("--num-seeds", type=int, default=3, help="seeds of the noise, at least 2")
    options = parser.parse_args()
    params = load_params(Path("params.yaml"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures = export_all(params, folder / "export", folder / "export.json")
        figures |= quality(params, folder / "export", num_images=options.num_images, num_seeds=options.num_seeds)
        if CHROMIUM:
            figures |= page_times(folder / "export/demo.html", folder / "profile")
    write_json(OUTPUT, figures)
    written = read_json(OUTPUT)
    print("\n".join([*table(written), "", *quality_table(written)]))


def export_all(params: Params, out_dir: Path, metrics_path: Path) -> Figures:
    """The figures of the stage `export` for all formats, and the seconds that the stage's work took."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    export = params.export.model_copy(update={"formats": list(FORMATS)})
    started = clock()
    export_student(
        export,
        base=params.base,
        sampling=params.sampling,
        inputs=export_inputs(),
        out_dir=out_dir,
        metrics_path=metrics_path,
        clock=clock,
    )
    return {**read_json(metrics_path), "all.export_s": clock() - started}


def quality(params: Params, export_dir: Path, *, num_images: int, num_seeds: int) -> Figures:
    """Distances to the test pictures, as means and standard deviations over seeds of the noise, by network.

    Both networks of a seed start from the same noise, so the differences that int8 makes are of pairs.
    """
    test = load_split(paths.DATASET, "test", prompt_template=params.base.prompt_template)
    reference = load_images(test)
    prompts = [example.prompt for example in test[: num_images or None]]
    network = load_feature_network(params.evaluate.features, default_device())
    real = extract_features(reference, network)
    teacher = load_pipeline_folder(paths.TEACHER, precision="fp32", caption_chunks=params.base.caption_chunks)
    found: dict[str, list[float]] = {}
    for seed in range(num_seeds):
        drawn = {
            name: draw(export_dir / name, prompts, teacher, seed=seed, batch_size=params.evaluate.batch_size)
            for name in get_args(Backend)
        }
        values = {name: distances(extract_features(images, network), real) for name, images in drawn.items()}
        values["int8_loss"] = tuple(np.subtract(values["onnx_int8"], values["onnx"]))
        for name, both in values.items():
            for metric, value in zip((network.frechet_name, network.kernel_name), both, strict=True):
                found.setdefault(f"{name}.{metric}", []).append(float(value))
    return {"quality.num_images": len(prompts), "quality.num_seeds": num_seeds, **_spread(found)}


def distances(features: Features, reference: Features) -> tuple[float, float]:
    """Frechet and kernel distance."""
    kernel = kernel_distance(torch.from_numpy(features), torch.from_numpy(reference)).value
    return frechet_distance(features, reference), kernel


def draw(folder: Path, prompts: list[str], like: ModelBundle, *, seed: int, batch_size: int) -> Images:
    """One picture per prompt; picture i starts from the noise of (seed, i), as in the evaluation."""
    pipeline = OnnxPipeline(folder, num_threads=torch.get_num_threads())
    noise = initial_noise(like, len(prompts), seed=seed).cpu().numpy()
    batches = [slice(first, first + batch_size) for first in range(0, len(prompts), batch_size)]
    return np.concatenate([pipeline.draw(prompts[batch], noise[batch]) for batch in batches])


def page_times(page_path: Path, profile: Path) -> Figures:
    """CPU seconds of the page's thread: until the model is loaded, and for 4 pictures of an example."""
    status = "document.getElementById('status').textContent"
    with browser(profile, timeout_s=600) as page:
        page.call("Performance.enable", timeDomain="threadTicks")

        def seconds() -> float:
            metrics = page.call("Performance.getMetrics")["metrics"]
            return next(item["value"] for item in metrics if item["name"] == "TaskDuration")

        started = seconds()
        page.open(page_path)
        page.wait_for(f"{status} === 'Ready.'")
        loaded, times = seconds() - started, []
        for _ in range(PAGE_DRAWINGS):
            started = seconds()
            page.value("document.querySelector('#examples button').click()")
            page.wait_for("document.getElementById('draw').textContent === 'Stop'")
            page.wait_for(f"{status}.startsWith('4 pictures in ')")
            times.append(seconds() - started)
    return {"demo.load_s": loaded, "demo.draw_4_pictures_s": statistics.median(times)}


def table(figures: Mapping[str, float]) -> Iterator[str]:
    """The rows of docs/exports.md."""
    yield "| | size | difference from the model | 1 picture | 8 pictures |"
    yield "|---|---:|---|---:|---:|"
    for title, name, difference in _rows(figures):
        mib = figures.get(f"{name}.size_mib")
        size = f"{mib:.1f} MiB" if mib else ""
        times = [figures.get(f"{name}.latency_batch_{batch}_ms") for batch in BATCHES]
        shown = " | ".join(f"{value:.0f} ms" if value else "" for value in times)
        yield f"| {title} | {size} | {difference} | {shown} |".replace("|  |", "| |").replace("|  |", "| |")


def quality_table(figures: Mapping[str, float]) -> Iterator[str]:
    """What int8 weights cost, in the units of the evaluation."""
    metrics = {"fd_": ("Frechet distance to test pictures", 1), "kd_": ("kernel distance to test pictures", 4)}
    yield f"| | {' | '.join(title for title, _ in metrics.values())} |"
    yield f"|---|{'---:|' * len(metrics)}"
    for title, name in (("`onnx`", "onnx"), ("`onnx_int8`", "onnx_int8"), ("`onnx_int8` minus `onnx`", "int8_loss")):
        cells = []
        for prefix, (_, digits) in metrics.items():
            (mean,) = (figures[key] for key in figures if key.startswith(f"{name}.{prefix}") and key.endswith(".mean"))
            (std,) = (figures[key] for key in figures if key.startswith(f"{name}.{prefix}") and key.endswith(".std"))
            cells.append(f"{round(mean, digits) + 0.0:.{digits}f} ± {std:.{digits}f}")  # + 0.0 makes -0.0 positive
        yield f"| {title} | {' | '.join(cells)} |"


def _rows(figures: Mapping[str, float]) -> Iterator[tuple[str, str, str]]:
    """Title, name of the figures, and what is known of the difference."""

    def number(key: str) -> str:
        mantissa, _, exponent = f"{figures[key]:.1e}".partition("e")
        return f"{mantissa}e{int(exponent)}" if 0 < figures[key] < 1e-3 else f"{figures[key]:.2g}"

    def shown(key: str) -> str:
        return f"at most {number(key)}" if figures[key] else "none"

    def of_onnx(name: str) -> str:
        pictures = number(f"{name}.images_mean_abs_diff_of_255")
        return f"epsilon {shown(f'{name}.noise_pred_max_abs_diff')}; pictures {pictures} of 255 on average"

    def of_weights(name: str) -> str:
        return f"weights {shown(f'{name}.weights_max_diff')}; pictures {shown(f'{name}.images_max_abs_diff')}"

    yield "teacher in torch", "teacher", ""
    yield "student in torch", "student", ""
    yield "`diffusers`", "diffusers", f"pictures {shown('diffusers.images_max_abs_diff')}"
    yield "`lora`", "lora", of_weights("lora")
    for subject in ("teacher", "student"):
        yield f"`single_file`, {subject}", f"single_file.{subject}", of_weights(f"single_file.{subject}")
    for name in ("onnx", "onnx_int8", "demo"):
        yield f"`{name}`", name, of_onnx(name)


def _spread(values: Mapping[str, Iterable[float]]) -> Figures:
    figures: Figures = {}
    for name, found in values.items():
        figures |= {f"{name}.mean": statistics.mean(found), f"{name}.std": statistics.stdev(found)}
    return figures


if __name__ == "__main__":
    main()
