"""Pictures with several captions: the rows of their prompts in a table of prompts, and the draw of one of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from naruto_add.data.dataset import Example

_STREAM = 1
"""Separates the draws of captions from the order of the pictures, which has the same seed and epoch."""


@dataclass(frozen=True)
class PromptRows:
    """The rows of each picture's prompts. `counts` says how many each picture has; its further `rows` are 0."""

    rows: Int[Tensor, "pictures prompts"]
    counts: Int[Tensor, " pictures"]

    def __len__(self) -> int:
        return len(self.counts)

    def drawn(self, pictures: Tensor, draws: Float[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        """A prompt's row for each of these pictures, by a draw in [0, 1)."""
        return self.rows[pictures, (draws * self.counts[pictures]).long()]


def prompt_rows(examples: Sequence[Example], row_of: Mapping[str, int]) -> PromptRows:
    """The rows of the examples' prompts; `row_of` maps prompts to rows."""
    counts = torch.tensor([len(example.prompts) for example in examples], dtype=torch.long)
    rows = torch.zeros(len(examples), int(counts.max()) if examples else 1, dtype=torch.long)
    for row, example in zip(rows, examples, strict=True):
        row[: len(example.prompts)] = torch.tensor([row_of[prompt] for prompt in example.prompts])
    return PromptRows(rows, counts)


def consecutive_rows(examples: Sequence[Example]) -> PromptRows:
    """The rows in a table that has all prompts of the first example, then those of the second, and so on."""
    counts = torch.tensor([len(example.prompts) for example in examples], dtype=torch.long)
    columns = torch.arange(int(counts.max()))
    rows = (counts.cumsum(0) - counts)[:, None] + columns
    return PromptRows(rows.where(columns < counts[:, None], 0), counts)


def epoch_draws(pictures: Sequence[int], num_pictures: int, *, seed: int, step: int) -> Float[Tensor, " batch"]:
    """A draw in [0, 1) for each picture of batch `step`, one per epoch, a function of the arguments alone."""
    first = step * len(pictures)
    epochs = [position // num_pictures for position in range(first, first + len(pictures))]
    draws = {epoch: np.random.default_rng((seed, epoch, _STREAM)).random(num_pictures) for epoch in set(epochs)}
    drawn = [draws[epoch][picture] for epoch, picture in zip(epochs, pictures, strict=True)]
    return torch.tensor(drawn, dtype=torch.float64)
