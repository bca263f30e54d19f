"""How well ADD's validation score ranks checkpoints: `python -m benchmarks.score_correlation CHECKPOINT...`.

The arguments are copies of `.checkpoints/add/*/add.pt`, made while the stage `add` ran; those of other runs may be
among them. Of each, the averaged student draws the test captions of the data set in data/dataset. Prints the validation
score beside the Frechet distance of these pictures to the test split, and Spearman's correlation of the two columns.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr

from benchmarks.compared import examples
from naruto_add.comparison.image_sets import draw_set
from naruto_add.comparison.subjects import Models, Subject, load_subjects
from naruto_add.config import paths
from naruto_add.config.load import load_params
from naruto_add.config.schema import Params
from naruto_add.data.dataset import Example
from naruto_add.evaluation.drawings import load_images
from naruto_add.evaluation.features import FeatureNetwork, extract_features, load_feature_network
from naruto_add.evaluation.frechet import Features, frechet_distance
from naruto_add.losses.kernel import kernel_distance
from naruto_add.runtime.compute import default_device


def main() -> None:
    """Print the table and the correlation."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", type=Path, nargs="+", help="files that the stage add wrote at its validations")
    files = parser.parse_args().checkpoints
    params = load_params(Path("params.yaml"))
    test = examples(params, "test")
    network = load_feature_network(params.evaluate.features, default_device())
    reference = extract_features(load_images(test), network)
    student = distilled(params)
    print("step\tscore\tteacher_distance\tfrechet\tkernel\tfile")
    rows = []
    for path in files:
        saved = torch.load(path, weights_only=True, map_location="cpu")
        scores = validation(saved)
        if scores:
            features = drawn_features(student, averaged(saved), test, params, network)
            rows.append((scores["score"], *distances(features, reference)))
            print(f"{saved['num_done']}\t{scores['score']:.4f}\t{scores['teacher_distance']:.4f}\t"
                  f"{rows[-1][1]:.2f}\t{rows[-1][2]:.4f}\t{path.name}", flush=True)  # fmt: skip
    found = spearmanr([row[0] for row in rows], [row[1] for row in rows])
    print(f"Spearman's correlation of score and Frechet distance: {found.statistic:.2f}, of {len(rows)} checkpoints")


def distilled(params: Params) -> Subject:
    """The student of the pipeline, whose weights are replaced by those of each checkpoint."""
    folders = {"teacher_dir": paths.TEACHER, "student_dir": paths.STUDENT, "distilled_dir": paths.STUDENT}
    return load_subjects(Models(base=params.base, sampling=params.sampling, **folders))["distilled"]


def validation(saved: dict[str, Any]) -> dict[str, float]:
    """The scalars of the checkpoint's last validation; empty if it was written between two validations."""
    selection = saved["states"]["selection"]
    return selection["last"] if selection["last_step"] == saved["num_done"] else {}


def averaged(saved: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The averaged weights of the student, by parameter name."""
    return saved["states"]["student"]["ema"]["average"]


def drawn_features(
    student: Subject, weights: dict[str, torch.Tensor], test: list[Example], params: Params, network: FeatureNetwork
) -> Features:
    """Features of the pictures that these weights draw of the test captions."""
    student.bundle.unet.load_state_dict(weights, strict=False)
    subject = replace(student, weights="")
    prompts = [example.prompt for example in test]
    images = draw_set(subject, prompts, seed=params.evaluate.seed, batch_size=params.evaluate.batch_size)
    return extract_features(images, network)


def distances(features: Features, reference: Features) -> tuple[float, float]:
    """Frechet and kernel distance."""
    kernel = kernel_distance(torch.from_numpy(features), torch.from_numpy(reference)).value
    return frechet_distance(features, reference), kernel


if __name__ == "__main__":
    main()
