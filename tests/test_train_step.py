"""The benchmark of an ADD step times the passes of that step, on the embedded base model."""

import torch

from benchmarks.train_step import make_trainer, profile, required_passes
from naruto_add.training.add.batch import draw_batch


def test_the_passes_and_the_step_run_on_the_embedded_base_model() -> None:
    params = profile()
    small = params.add.model_copy(update={"batch_size": 4, "adv_start_steps": 0, "adv_ramp_steps": 0})
    trainer = make_trainer(params.model_copy(update={"add": small}))
    before = [weight.detach().clone() for weight in trainer.learner.trainable]
    passes = required_passes(trainer, draw_batch(trainer.data, trainer.params, step=0))
    assert "teacher: guided prediction" in passes
    for call in passes.values():
        call()
    assert all(torch.equal(*pair) for pair in zip(before, trainer.learner.trainable, strict=True))
    assert trainer.train_step(0)["adv_scale"] == 0  # before the gradients were measured
    assert trainer.train_step(1)["adv_scale"] > 0
    assert not all(torch.equal(*pair) for pair in zip(before, trainer.learner.trainable, strict=True))
