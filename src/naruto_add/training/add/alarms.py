"""Alarms: signs that a distillation goes wrong, each with what was seen, since when, and what to change."""

import sys
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

from naruto_add.training.sharing import is_main

SATURATED_LOSS = 0.05
LARGEST_GAP = 10.0
LARGEST_DRIFT = 0.5
SMALLEST_DIVERSITY = 0.5

ADVERSARIAL_ADVICE = {
    "saturated_discriminator": "lower add.discriminator_learning_rate, raise add.r1_weight or set add.augment",
    "logit_gap": "raise add.r1_weight or lower add.discriminator_learning_rate",
    "colour_drift": "lower add.adv_weight or add.learning_rate, or raise add.distill_weight",
    "falling_diversity": "lower add.adv_weight, raise add.distill_weight, or raise student.pool_size",
}
CONSISTENCY_ADVICE = {
    "colour_drift": "lower add.learning_rate",
    "falling_diversity": "lower add.learning_rate or raise student.pool_size",
}


class Alarms:
    """Watches steps and validations; an alarm rings once for every stretch that lasts, and is explained once.

    Steps must look bad for `window_steps` in a row; a validation speaks for itself. `advice` names the alarms that the
    method has, and what to change in it.
    """

    def __init__(self, window_steps: int, advice: Mapping[str, str]) -> None:
        self._window_steps, self._advice = window_steps, advice
        self.counts = dict.fromkeys(advice, 0)
        self._since = dict.fromkeys(advice, -1)
        self._has_rung = dict.fromkeys(advice, False)
        self._first_since: dict[str, int] = {}
        self._first_diversity = -1.0

    def note_step(self, num_done: int, scalars: Mapping[str, float]) -> None:
        """Watch the discriminator: whether it has nothing left to learn, and how far apart it tells real from fake."""
        loss, gap = scalars["disc_loss"], scalars["real_logit"] - scalars["fake_logit"]
        is_saturated = loss < SATURATED_LOSS
        seen = f"the discriminator's loss is {loss:.3g}, below {SATURATED_LOSS}"
        self._watch("saturated_discriminator", is_saturated, num_done, lasting=self._window_steps, seen=seen)
        seen = f"real and fake logits are {gap:.3g} apart, more than {LARGEST_GAP:g}"
        self._watch("logit_gap", gap > LARGEST_GAP, num_done, lasting=self._window_steps, seen=seen)

    def note_validation(self, num_done: int, *, colour_drift: float, diversity: float) -> None:
        """Watch the samples: their colours against the teacher's, their variety against that of the first ones."""
        seen = f"a channel's mean has drifted by {colour_drift:.2g} of the latents' standard deviation"
        self._watch("colour_drift", colour_drift > LARGEST_DRIFT, num_done, lasting=1, seen=seen)
        if self._first_diversity < 0:
            self._first_diversity = diversity
        lowest = SMALLEST_DIVERSITY * self._first_diversity
        seen = f"samples of one prompt differ by {diversity:.2g}, at the start by {self._first_diversity:.2g}"
        self._watch("falling_diversity", diversity < lowest, num_done, lasting=1, seen=seen)

    def metrics(self) -> dict[str, int]:
        """How often each has rung, and of those that have, since which step the first time."""
        counts = {f"alarms_{name}": count for name, count in self.counts.items()}
        return counts | {f"alarms_{name}_since_step": step for name, step in self._first_since.items()}

    def state_dict(self) -> dict[str, Any]:
        """Counts and what is being watched."""
        return {
            "counts": dict(self.counts),
            "since": dict(self._since),
            "has_rung": dict(self._has_rung),
            "first_since": dict(self._first_since),
            "first_diversity": self._first_diversity,
        }

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Restore both."""
        self.counts, self._since = dict(state_dict["counts"]), dict(state_dict["since"])
        self._first_since = dict(state_dict["first_since"])
        self._has_rung, self._first_diversity = dict(state_dict["has_rung"]), state_dict["first_diversity"]

    def _watch(self, name: str, is_bad: bool, num_done: int, *, lasting: int, seen: str) -> None:
        if not is_bad:
            self._since[name], self._has_rung[name] = -1, False
            return
        if self._since[name] < 0:
            self._since[name] = num_done
        if self._has_rung[name] or num_done - self._since[name] + 1 < lasting:
            return
        self._has_rung[name] = True
        self.counts[name] += 1
        self._first_since.setdefault(name, self._since[name])
        if self.counts[name] == 1 and is_main():
            message = f"add: alarm {name}: {seen}, since step {self._since[name]}; {self._advice[name]}"
            tqdm.write(message, file=sys.stderr)
