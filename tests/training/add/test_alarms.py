"""Each alarm is provoked, says what was seen, since when and what to change, and is silent on a healthy run."""

import pytest

from naruto_add.training.add.alarms import ADVERSARIAL_ADVICE, Alarms
from naruto_add.training.add.state import Patience

HEALTHY = {"disc_loss": 1.2, "real_logit": 0.4, "fake_logit": -0.4}


def run(alarms: Alarms, steps: range, **scalars: float) -> None:
    for step in steps:
        alarms.note_step(step, {**HEALTHY, **scalars})


def test_a_healthy_run_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    alarms = Alarms(3, ADVERSARIAL_ADVICE)
    run(alarms, range(1, 20))
    for num_done in range(3):
        alarms.note_validation(num_done, colour_drift=0.1, diversity=0.8)
    assert set(alarms.metrics().values()) == {0}
    assert set(alarms.metrics()) == {f"alarms_{name}" for name in ADVERSARIAL_ADVICE}
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "scalars"),
    [
        ("saturated_discriminator", {"disc_loss": 0.01}),
        ("logit_gap", {"real_logit": 9.0, "fake_logit": -9.0}),
    ],
)
def test_a_discriminator_that_has_won_rings_after_a_whole_window(
    name: str, scalars: dict[str, float], capsys: pytest.CaptureFixture[str]
) -> None:
    alarms = Alarms(5, ADVERSARIAL_ADVICE)
    run(alarms, range(1, 11))
    run(alarms, range(11, 15), **scalars)
    run(alarms, range(15, 16))  # one healthy step: the window starts again
    run(alarms, range(16, 20), **scalars)
    assert capsys.readouterr().err == ""
    run(alarms, range(20, 60), **scalars)
    message = capsys.readouterr().err
    assert message.count("alarm") == 1
    assert f"add: alarm {name}: " in message and "since step 16; " in message and ADVERSARIAL_ADVICE[name] in message
    assert alarms.counts[name] == 1
    run(alarms, range(60, 61))
    run(alarms, range(61, 70), **scalars)
    assert alarms.counts[name] == 2
    assert capsys.readouterr().err == ""


def test_colours_that_drift_ring(capsys: pytest.CaptureFixture[str]) -> None:
    alarms = Alarms(5, ADVERSARIAL_ADVICE)
    alarms.note_validation(0, colour_drift=0.2, diversity=1.0)
    alarms.note_validation(50, colour_drift=0.9, diversity=1.0)
    message = capsys.readouterr().err
    assert "colour_drift" in message and "0.9" in message and "since step 50; lower add.adv_weight" in message
    assert alarms.metrics()["alarms_colour_drift"] == 1


def test_variety_that_is_lost_within_a_prompt_rings(capsys: pytest.CaptureFixture[str]) -> None:
    alarms = Alarms(5, ADVERSARIAL_ADVICE)
    alarms.note_validation(0, colour_drift=0.0, diversity=1.0)
    resumed = Alarms(5, ADVERSARIAL_ADVICE)
    resumed.load_state_dict(alarms.state_dict())
    resumed.note_validation(50, colour_drift=0.0, diversity=0.3)
    message = capsys.readouterr().err
    assert "falling_diversity: samples of one prompt differ by 0.3, at the start by 1, since step 50" in message
    assert resumed.metrics()["alarms_falling_diversity"] == 1


def test_patience_counts_validations_without_a_better_score() -> None:
    patience = Patience(2)
    for is_best, counts in ((False, False), (False, False), (True, True), (False, True)):
        patience.note(is_best=is_best, counts=counts)
        assert not patience.is_over()
    patience.note(is_best=False, counts=True)
    assert patience.is_over()
    endless = Patience(0)
    for _ in range(9):
        endless.note(is_best=False, counts=True)
    assert not endless.is_over()
