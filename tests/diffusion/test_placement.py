"""Unused networks leave the GPU and come back, and an autoencoder's batches follow from the free memory."""

from typing import Any

import pytest
import torch
from torch import nn

from naruto_add.diffusion.bundle import ModelBundle, decode_latents, encode_pixels
from naruto_add.diffusion.placement import (
    VAE_BATCH,
    in_tiles,
    move_to_cpu,
    on_device,
    picture_bytes,
    pictures_at_once,
)
from naruto_add.runtime.compute import free_memory

GPU = torch.device("meta")
"""Stands for a GPU: a device that is always there and is not the CPU."""


class Network(nn.Linear):
    """A layer whose weights come back from a device without storage, and which remembers where it was."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.visited: list[str] = []

    def to(self, device: Any) -> Any:  # type: ignore[override]
        self.visited.append(torch.device(device).type)
        return self.to_empty(device=device)


def test_a_network_is_on_the_device_only_while_it_is_used() -> None:
    network = Network()
    with on_device(GPU, network):
        assert network.weight.device == GPU
        with on_device(GPU, network):  # it is there already, so that the inner block leaves it there
            pass
        assert network.weight.device == GPU
    assert network.visited == ["meta", "cpu"]


def test_a_network_returns_after_an_error() -> None:
    network = Network()
    with pytest.raises(KeyError), on_device(GPU, network):
        raise KeyError
    assert network.weight.device.type == "cpu"


def test_a_network_that_is_moved_to_the_cpu_stays_there_and_is_not_moved_twice() -> None:
    network = Network()
    network.to(GPU)
    move_to_cpu(network)
    move_to_cpu(network)
    assert network.visited == ["meta", "cpu"]


def test_a_cpu_has_no_limit_of_its_own_and_batches_of_one_size(tiny_bundle: ModelBundle) -> None:
    assert free_memory(torch.device("cpu")) is None
    assert pictures_at_once(tiny_bundle.vae, num_pixels=10**9, free_bytes=None) == VAE_BATCH


def test_the_batch_follows_from_the_free_memory(tiny_bundle: ModelBundle) -> None:
    one = picture_bytes(tiny_bundle.vae, num_pixels=512**2)
    numbers = [
        pictures_at_once(tiny_bundle.vae, num_pixels=512**2, free_bytes=int(factor * one))
        for factor in (0.9, 1, 2.5, 100)
    ]
    assert numbers == [0, 1, 2, VAE_BATCH]


def test_tiles_of_a_large_picture_are_blended(tiny_bundle: ModelBundle) -> None:
    """The result is close to that of the whole."""
    latents = torch.randn(1, 4, 48, 48, generator=torch.Generator().manual_seed(0))
    whole = decode_latents(tiny_bundle, latents)
    with in_tiles(tiny_bundle.vae):
        tiled = decode_latents(tiny_bundle, latents)
    assert not tiny_bundle.vae.use_tiling
    assert tiled.shape == whole.shape
    assert not torch.equal(tiled, whole)
    assert (tiled - whole).abs().mean() < 0.1 * whole.std()


def test_a_batch_that_is_split_gives_the_pictures_of_single_ones(tiny_bundle: ModelBundle) -> None:
    pixels = torch.rand(VAE_BATCH + 1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = encode_pixels(tiny_bundle, pixels)
    decoded = decode_latents(tiny_bundle, latents)
    assert len(decoded) == VAE_BATCH + 1
    alone = torch.cat([encode_pixels(tiny_bundle, each) for each in pixels.split(1)])
    torch.testing.assert_close(alone, latents, rtol=1e-5, atol=1e-5)
    alone = torch.cat([decode_latents(tiny_bundle, each) for each in latents.split(1)])
    torch.testing.assert_close(alone, decoded, rtol=1e-4, atol=1e-4)
