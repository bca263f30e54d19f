"""Muon: orthogonal updates of hidden weights, AdamW for all others, and resuming."""

import copy

import pytest
import torch
from torch import Tensor, nn

from naruto_add.training.muon import ADAMW_RMS, COEFFICIENTS, NUM_ITERATIONS, Muon, orthogonalize

RATE = 0.01


class Net(nn.Module):
    """A first convolution, a hidden one, and a hidden matrix with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(2, 4, 3, padding=1)
        self.hidden = nn.Conv2d(4, 6, 3, padding=1, bias=False)
        self.dense = nn.Linear(6, 3)

    def forward(self, pixels: Tensor) -> Tensor:
        outputs: Tensor = self.dense(self.hidden(self.conv_in(pixels).tanh()).mean(dim=(2, 3)))
        return outputs


def muon(module: nn.Module) -> Muon:
    return Muon(dict(module.named_parameters()), lr=RATE, weight_decay=0.0)


def train(module: nn.Module, optimizer: torch.optim.Optimizer, *, steps: range) -> None:
    for step in steps:
        pixels = torch.randn(8, 2, 5, 5, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        module(pixels).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (16, 16)])
def test_orthogonalizing_keeps_directions_and_makes_singular_values_equal(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    in_their_directions = u.T @ orthogonalize(matrix) @ vh.T
    diagonal = in_their_directions.diagonal()
    assert diagonal.min() > 0.6
    assert diagonal.max() < 1.3
    assert (in_their_directions - diagonal.diag()).abs().max() < 1e-4


@pytest.mark.parametrize("rank", [1, 12])
def test_the_iterations_are_those_of_newton_and_schulz(rank: int) -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(12, rank, generator=generator) @ torch.randn(rank, 30, generator=generator)
    x = matrix.double() / matrix.double().norm()
    a, b, c = COEFFICIENTS
    for _ in range(NUM_ITERATIONS):
        x = a * x + (b * x @ x.T + c * x @ x.T @ x @ x.T) @ x
    torch.testing.assert_close(orthogonalize(matrix).double(), x, rtol=0, atol=1e-4)


def test_a_gradient_of_zero_changes_nothing() -> None:
    assert torch.equal(orthogonalize(torch.zeros(3, 4)), torch.zeros(3, 4))


def test_an_update_is_as_large_as_one_of_adamw() -> None:
    module = nn.Sequential(nn.Linear(32, 48, bias=False))
    before = module[0].weight.detach().clone()
    train_inputs = torch.randn(64, 32, generator=torch.Generator().manual_seed(1))
    module(train_inputs).square().mean().backward()
    muon(module).step()
    rms = (module[0].weight - before).square().mean().sqrt() / RATE
    assert rms.item() == pytest.approx(ADAMW_RMS, rel=0.2)


def test_first_layers_and_biases_are_trained_by_adamw() -> None:
    torch.manual_seed(0)
    module = Net()
    other = copy.deepcopy(module)
    train(module, muon(module), steps=range(1))
    train(other, torch.optim.AdamW(other.parameters(), lr=RATE, weight_decay=0.0), steps=range(1))
    for name in ("conv_in.weight", "conv_in.bias", "dense.bias"):
        torch.testing.assert_close(module.get_parameter(name), other.get_parameter(name))
    for name in ("hidden.weight", "dense.weight"):
        assert not torch.allclose(module.get_parameter(name), other.get_parameter(name))


def test_the_gradient_scaler_skips_a_step_whose_gradient_is_not_finite() -> None:
    module = nn.Linear(4, 4)
    before = copy.deepcopy(module.state_dict())
    optimizer, scaler = muon(module), torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(module(torch.full((1, 4), torch.inf)).sum()).backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    for name, weight in module.state_dict().items():
        assert torch.equal(weight, before[name])
    assert scaler.get_scale() < 8


def test_a_resumed_training_has_the_same_weights() -> None:
    torch.manual_seed(0)
    whole = Net()
    first = copy.deepcopy(whole)
    train(whole, muon(whole), steps=range(6))
    optimizer = muon(first)
    train(first, optimizer, steps=range(3))
    second = copy.deepcopy(first)
    resumed = muon(second)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(second, resumed, steps=range(3, 6))
    for name, weight in whole.named_parameters():
        assert torch.equal(second.get_parameter(name), weight)
