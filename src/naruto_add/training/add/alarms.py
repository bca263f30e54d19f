"""Alarms: signs that a distillation fails, each with the measured value, the step it began at, and what to change."""

import sys
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

from naruto_add.runtime.sharing import is_main

SATURATED_LOSS = 0.05
LARGEST_GAP = 10.0
LARGEST_DRIFT = 0.5
SMALLEST_DIVERSITY = 0.8
"""A fraction of the diversity at the first validation."""
LARGEST_MATCH_LOSS = 0.05
MAX_WINDOW_STEPS = 200

ADVERSARIAL_ADVICE = {
    "saturated_discriminator": "lower add.discriminator_learning_rate, or raise add.r1_weight or add.augment_strength",
    "logit_gap": "raise add.r1_weight or lower add.discriminator_learning_rate",
    "colour_drift": "lower add.adv_weight or add.optimizer.learning_rate, or raise add.distill_weight",
    "falling_diversity": "lower add.adv_weight, or raise add.distill_weight or student.pool_size",
    "lost_prompts": "lower add.adv_weight, or raise add.distill_weight",
    "ends_worse": "lower add.optimizer.learning_rate or add.adv_weight, raise add.optimizer.ema_decay, or train for "
    "fewer steps",
}
CONSISTENCY_ADVICE = {
    "colour_drift": "lower add.optimizer.learning_rate",
    "falling_diversity": "lower add.optimizer.learning_rate or raise student.pool_size",
    "lost_prompts": "lower add.optimizer.learning_rate",
    "ends_worse": "lower add.optimizer.learning_rate, raise add.optimizer.ema_decay, or train for fewer steps",
}


class Alarms:
    """Counts alarms and prints the first of each kind; an alarm counts once until its condition has ended.

    Conditions on training steps must hold for a window of a third of the training, at most MAX_WINDOW_STEPS steps.
    Conditions on validations count at once.
    """

    def __init__(self, num_steps: int, advice: Mapping[str, str]) -> None:
        """`advice` contains what to change for each alarm of the method."""
        self._window_steps, self._advice = min(MAX_WINDOW_STEPS, max(1, num_steps // 3)), advice
        self.counts = dict.fromkeys(advice, 0)
        self._since = dict.fromkeys(advice, -1)
        self._is_counted = dict.fromkeys(advice, False)
        self._first_since: dict[str, int] = {}
        self._first_diversity = self._first_match = -1.0

    def note_step(self, num_done: int, scalars: Mapping[str, float]) -> None:
        """Check the discriminators' loss (`disc_loss`) and their mean logits (`real_logit`, `fake_logit`)."""
        loss, gap = scalars["disc_loss"], scalars["real_logit"] - scalars["fake_logit"]
        finding = f"the discriminator loss is {loss:.3g}, below {SATURATED_LOSS}"
        self._check("saturated_discriminator", loss < SATURATED_LOSS, num_done, self._window_steps, finding)
        finding = f"the difference of real and fake logits is {gap:.3g}, above {LARGEST_GAP:g}"
        self._check("logit_gap", gap > LARGEST_GAP, num_done, self._window_steps, finding)

    def note_validation(self, num_done: int, *, colour_drift: float, diversity: float, prompt_match: float) -> None:
        """Check the samples' colours against the teacher's, and the rest against the first validation's."""
        finding = f"the mean of a latent channel has drifted by {colour_drift:.2g} standard deviations of the latents"
        self._check("colour_drift", colour_drift > LARGEST_DRIFT, num_done, 1, finding)
        if self._first_diversity < 0:
            self._first_diversity, self._first_match = diversity, prompt_match
        first = self._first_diversity
        finding = f"the diversity of samples of one prompt is {diversity:.2g}, and was {first:.2g} at the start"
        self._check("falling_diversity", diversity < SMALLEST_DIVERSITY * first, num_done, 1, finding)
        first = self._first_match
        finding = f"the prompt match, a fraction, is {prompt_match:.3g}, and was {first:.3g} at the start"
        self._check("lost_prompts", first - prompt_match > LARGEST_MATCH_LOSS, num_done, 1, finding)

    def note_end(self, best_step: int, finding: str) -> None:
        """Count that the last validation is worse than the one after `best_step` steps, as `finding` says."""
        self._check("ends_worse", True, best_step, 1, finding)

    def metrics(self) -> dict[str, int]:
        """The count of each alarm, and the step at which it first began, if it did."""
        counts = {f"alarms_{name}": count for name, count in self.counts.items()}
        return counts | {f"alarms_{name}_since_step": step for name, step in self._first_since.items()}

    def state_dict(self) -> dict[str, Any]:
        """Counts and current conditions."""
        return {
            "counts": dict(self.counts),
            "since": dict(self._since),
            "is_counted": dict(self._is_counted),
            "first_since": dict(self._first_since),
            "first_diversity": self._first_diversity,
            "first_match": self._first_match,
        }

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Restore counts and conditions."""
        self.counts, self._since = dict(state_dict["counts"]), dict(state_dict["since"])
        self._is_counted, self._first_since = dict(state_dict["is_counted"]), dict(state_dict["first_since"])
        self._first_diversity, self._first_match = state_dict["first_diversity"], state_dict["first_match"]

    def _check(self, name: str, is_bad: bool, num_done: int, window_steps: int, finding: str) -> None:
        if not is_bad:
            self._since[name], self._is_counted[name] = -1, False
            return
        if self._since[name] < 0:
            self._since[name] = num_done
        if self._is_counted[name] or num_done - self._since[name] + 1 < window_steps:
            return
        self._is_counted[name] = True
        self.counts[name] += 1
        self._first_since.setdefault(name, self._since[name])
        if self.counts[name] == 1 and is_main():
            message = f"add: alarm {name}: {finding}, since step {self._since[name]}; {self._advice[name]}"
            tqdm.write(message, file=sys.stderr)
