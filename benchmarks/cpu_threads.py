"""What a CPU gains by drawing and measuring several batches at once: `python -m benchmarks.cpu_threads`.

Run it after `dvc repro`, on a machine without a GPU that does nothing else: it measures wall-clock time. Three rows
compare batch after batch, each with all of torch's threads, to `compute_in_threads`; the last row compares memory
layouts of the networks. Prints the median times of both ways, and the median ratio of their times in a round.
"""

import argparse
import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from unittest.mock import patch

import torch

from benchmarks.compared import examples, load_compared
from benchmarks.timing import Round, median, median_seconds, time_rounds
from naruto_add.comparison.image_sets import draw_alone, draw_set
from naruto_add.comparison.subjects import Subject, with_dpm_solver
from naruto_add.evaluation.drawings import load_images
from naruto_add.evaluation.features import extract_features, load_feature_network
from naruto_add.runtime import threads
from naruto_add.runtime.compute import default_device

NUM_PICTURES = 128
TEACHER_STEPS = 4

Ways = Mapping[str, Callable[[], object]]
"""Two ways of doing the same, by name; the second is compared with the first."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="rounds; every row is done in both ways in each")
    repeats = parser.parse_args().repeats
    if torch.cuda.is_available():
        parser.error("this machine has a GPU, on which nothing is computed in threads")
    params, subjects = load_compared()
    test = examples(params, "test")
    prompts, images = [example.prompt for example in test[:NUM_PICTURES]], load_images(test[:NUM_PICTURES])
    network = load_feature_network(params.evaluate.features, default_device())
    student, teacher = subjects["distilled"], with_dpm_solver(subjects["teacher"], TEACHER_STEPS)
    draw = partial(draw_set, prompts=prompts, seed=0, batch_size=params.evaluate.batch_size)
    alone = partial(draw_alone, prompts=prompts[:1], seed=0)
    rows = {
        f"teacher, {NUM_PICTURES} pictures": one_at_a_time_and_in_threads(partial(draw, teacher)),
        f"student, {NUM_PICTURES} pictures": one_at_a_time_and_in_threads(partial(draw, student)),
        f"features of {NUM_PICTURES} pictures": one_at_a_time_and_in_threads(
            partial(extract_features, images, network)
        ),
        "student, 1 picture": {
            "channels first": partial(alone, channels_first(student)),
            "channels last": partial(alone, student),
        },
    }
    print(f"{torch.get_num_threads()} threads, medians of {repeats} rounds")
    for name, ways in rows.items():
        rounds = time_rounds(ways, repeats, clock=time.perf_counter)
        first, second = ways
        times = ", ".join(f"{way} {seconds:.3f} s" for way, seconds in median_seconds(rounds).items())
        print(f"{name}: {times}, {median(rounds, ratio(first, second)):.2f} times as fast", flush=True)


def ratio(numerator: str, denominator: str) -> Callable[[Round], float]:
    """The ratio of two times of a round."""
    return lambda seconds: seconds[numerator] / seconds[denominator]


def one_at_a_time_and_in_threads(call: Callable[[], object]) -> Ways:
    """The call with one computation at a time, and with several at once."""

    def one_at_a_time() -> None:
        with patch.object(threads, "MAX_AT_ONCE", 1):
            call()

    return {"one at a time": one_at_a_time, "in threads": call}


def channels_first(subject: Subject) -> Subject:
    """A copy whose networks have torch's default memory layout."""
    networks = {"unet": copy.deepcopy(subject.bundle.unet), "vae": copy.deepcopy(subject.bundle.vae)}
    for network in networks.values():
        network.to(memory_format=torch.contiguous_format)
    return replace(subject, bundle=replace(subject.bundle, **networks))


if __name__ == "__main__":
    main()
