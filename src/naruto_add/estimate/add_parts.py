"""The parts of a batch of `add`, by how many of their items each loss is computed on."""

from collections import Counter
from dataclasses import dataclass

from naruto_add.config.schema import Add
from naruto_add.training.add.batch import discriminator_weights, evenly_spread, renoised_weights


@dataclass(frozen=True)
class Part:
    """Numbers of items: all, those shown to the discriminators, with a renoised loss, and with rollouts.

    `final` of the rollouts go up to the last timestep, the others to a random one.
    """

    size: int
    shown: int
    renoised: int
    rollouts: int
    final: int

    def rollout_calls(self, num_steps: int) -> float:
        """The expected number of the student's predictions of one item in all rollouts, with so many timesteps."""
        return (self.final + (self.rollouts - self.final) / 2) * (num_steps - 1)


def parts_of_batch(add: Add) -> Counter[Part]:
    """How many parts of each kind a batch has, as `training.add.batch` chooses the items."""
    is_shown = discriminator_weights(add) > 0
    is_renoised = renoised_weights(add) > 0
    is_final = is_shown & (add.discriminator_fraction < 1)
    is_rollout = evenly_spread(~is_final, add.rollout_fraction) | is_final
    chosen = (is_shown, is_renoised, is_rollout, is_final)
    size = add.batch_size // add.accumulation_steps
    columns = zip(*(items.unflatten(0, (-1, size)).sum(dim=1).tolist() for items in chosen), strict=True)
    return Counter(Part(size, *numbers) for numbers in columns)
