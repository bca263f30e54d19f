"""What a CPU gains by drawing and measuring several batches at once: `python -m benchmarks.cpu_threads`.

Run it after `dvc repro`, on a machine without a GPU that does nothing else: times are of the clock. Every row is done
in two ways in each round, after a round that is not timed: batch after batch with all of torch's threads, and as
`compute_in_threads` does it. Prints the median seconds of both ways, and how many times faster the second one is. The
last row compares memory layouts of the networks: torch's default, and channels last.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from unittest.mock import patch

import torch

from benchmarks.compared import examples, load_compared
from naruto_add.comparison.image_sets import draw_alone, draw_set
from naruto_add.comparison.subjects import Subject, with_dpm_solver
from naruto_add.evaluation.drawings import load_images
from naruto_add.evaluation.features import extract_features, load_feature_network
from naruto_add.runtime import threads
from naruto_add.runtime.compute import default_device

NUM_PICTURES = 128
TEACHER_STEPS = 4

Pair = tuple[Callable[[], object], Callable[[], object]]


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
    rows: dict[str, Pair] = {
        f"teacher, {NUM_PICTURES} pictures": one_at_a_time_and_in_threads(partial(draw, teacher)),
        f"student, {NUM_PICTURES} pictures": one_at_a_time_and_in_threads(partial(draw, student)),
        f"features of {NUM_PICTURES} pictures": one_at_a_time_and_in_threads(
            partial(extract_features, images, network)
        ),
        "student, 1 picture, memory layout": (partial(alone, channels_first(student)), partial(alone, student)),
    }
    print(f"{torch.get_num_threads()} threads, medians of {repeats} rounds")
    print(f"{'':<36}{'before':>11}{'after':>11}")
    for name, ways in rows.items():
        rounds = [[seconds_of(way) for way in ways] for _ in range(repeats + 1)][1:]
        before, after = (statistics.median(seconds) for seconds in zip(*rounds, strict=True))
        ratio = statistics.median(one / other for one, other in rounds)
        print(f"{name:<36}{before:9.3f} s{after:9.3f} s{ratio:7.2f} times as fast", flush=True)


def one_at_a_time_and_in_threads(call: Callable[[], object]) -> Pair:
    """The call with one computation at a time, and with several at once."""

    def one_at_a_time() -> None:
        with patch.object(threads, "MAX_AT_ONCE", 1):
            call()

    return one_at_a_time, call


def channels_first(subject: Subject) -> Subject:
    """A copy whose networks have torch's default memory layout."""
    networks = {"unet": copy.deepcopy(subject.bundle.unet), "vae": copy.deepcopy(subject.bundle.vae)}
    for network in networks.values():
        network.to(memory_format=torch.contiguous_format)
    return replace(subject, bundle=replace(subject.bundle, **networks))


def seconds_of(call: Callable[[], object]) -> float:
    """The seconds of one call, of the clock."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
