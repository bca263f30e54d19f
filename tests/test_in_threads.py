"""What is computed in threads on a CPU is what one thread computes: pictures, pool samples, features."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor

from naruto_add.comparison.image_sets import draw_set
from naruto_add.comparison.subjects import Subject
from naruto_add.diffusion.bundle import ModelBundle, tokenize
from naruto_add.diffusion.sampling import dpm_solver_sampler
from naruto_add.evaluation.features import FeatureNetwork, extract_features
from naruto_add.evaluation.perceptual import PerceptualNetwork, perceptual_distances
from naruto_add.runtime import threads
from naruto_add.runtime.sharing import compute_across_processes
from naruto_add.training.draw_pool import CHUNK, draw_pool
from naruto_add.training.pool import Pool

T = TypeVar("T")

PROMPTS = ["a man with a sword", "a girl at night", "a boy", "a woman in a village", "a cat"]


pytestmark = pytest.mark.usefixtures("two_threads")


def one_at_a_time(compute: Callable[[], T]) -> T:
    with patch.object(threads, "MAX_AT_ONCE", 1):
        return compute()


def draws(bundle: ModelBundle, folder: Path, *, size: int) -> Pool:
    folder.mkdir()
    return draw_pool(
        bundle,
        prompts=PROMPTS,
        buckets=[],
        size=size,
        num_steps=4,
        timesteps=[999, 499],
        guidance_scale=3.0,
        seed=0,
        path=folder / "pool.safetensors",
        cache_dir=folder / "cache",
    )


@pytest.mark.parametrize("caption_chunks", [1, 2])
def test_pictures_are_those_of_one_thread(tiny_bundle: ModelBundle, caption_chunks: int) -> None:
    bundle = replace(tiny_bundle, caption_chunks=caption_chunks)
    subject = Subject(bundle, dpm_solver_sampler(bundle, 4, 3.0), "teacher")
    names: set[str] = set()
    bundle.unet.register_forward_pre_hook(lambda *_: names.add(threading.current_thread().name))

    pictures = draw_set(subject, PROMPTS, seed=0, batch_size=2)
    assert len(names) == 2
    alone = one_at_a_time(lambda: draw_set(subject, PROMPTS, seed=0, batch_size=2))
    assert np.abs(pictures.astype(int) - alone).max() <= 1
    assert (pictures[0] != pictures[1]).any()


def test_pool_samples_are_those_of_one_thread_in_their_order(tiny_bundle: ModelBundle, tmp_path: Path) -> None:
    size = 3 * CHUNK - 5
    pool = draws(tiny_bundle, tmp_path / "threads", size=size)
    alone = one_at_a_time(lambda: draws(tiny_bundle, tmp_path / "alone", size=size))

    torch.testing.assert_close(pool.x0, alone.x0, rtol=0, atol=1e-3)
    torch.testing.assert_close(pool.states, alone.states, rtol=0, atol=1e-3)
    assert len(pool.x0) == size


def test_the_last_chunk_has_the_same_threads_wherever_a_pool_continues() -> None:
    """Some operations round differently with other numbers of threads."""
    shares = [compute_across_processes(range(number), lambda _: torch.get_num_threads()) for number in (1, 2, 3)]

    assert shares == [[1], [1, 1], [1, 1, 1]]


def test_networks_measure_without_gradients() -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    weight = torch.ones(3, requires_grad=True)

    def features(pixels: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        return pixels.mean(dim=(2, 3)) * weight

    def distance(pixels: Tensor, others: Tensor) -> Tensor:
        return (features(pixels) - features(others)).abs().mean(dim=1)

    network = FeatureNetwork("mean", "fd_mean", "kd_mean", 8, features)
    found = extract_features(images, network)
    np.testing.assert_allclose(found, images.mean(axis=(1, 2)), rtol=1e-4)
    distances = perceptual_distances(
        images, images[::-1].copy(), network=PerceptualNetwork("mean", "pd_mean", distance)
    )
    np.testing.assert_allclose(distances, np.abs(found - found[::-1]).mean(axis=1), rtol=1e-4)


def test_only_one_thread_at_a_time_calls_the_tokenizer(tiny_bundle: ModelBundle) -> None:
    tokenizer, lock = tiny_bundle.tokenizer, threading.Lock()

    def checked(*arguments: Any, **options: Any) -> Any:
        assert lock.acquire(blocking=False), "two threads are in the tokenizer"
        try:
            return tokenizer(*arguments, **options)
        finally:
            lock.release()

    tiny_bundle.tokenizer = checked  # type: ignore[assignment]
    prompts = PROMPTS * 40
    rows = compute_across_processes(prompts, lambda prompt: tokenize(tiny_bundle, [prompt]))
    assert torch.equal(torch.cat(rows), tokenize(tiny_bundle, prompts))
