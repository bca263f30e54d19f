"""Each alarm is provoked and says what was measured, since when and what to change; a healthy run causes none."""

import pytest

from naruto_add.training.add.alarms import ADVERSARIAL_ADVICE, Alarms

HEALTHY = {"disc_loss": 1.2, "real_logit": 0.4, "fake_logit": -0.4}


def note_steps(alarms: Alarms, steps: range, **scalars: float) -> None:
    for step in steps:
        alarms.note_step(step, {**HEALTHY, **scalars})


def test_a_healthy_run_causes_no_alarm(capsys: pytest.CaptureFixture[str]) -> None:
    alarms = Alarms(9, ADVERSARIAL_ADVICE)
    note_steps(alarms, range(1, 20))
    for num_done in range(3):
        alarms.note_validation(num_done, colour_drift=0.1, diversity=0.8, prompt_match=0.9)
    assert alarms.metrics() == dict.fromkeys((f"alarms_{name}" for name in ADVERSARIAL_ADVICE), 0)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "scalars"),
    [("saturated_discriminator", {"disc_loss": 0.01}), ("logit_gap", {"real_logit": 9.0, "fake_logit": -9.0})],
)
def test_a_discriminator_that_has_won_for_a_third_of_the_training_causes_one_alarm(
    name: str, scalars: dict[str, float], capsys: pytest.CaptureFixture[str]
) -> None:
    alarms = Alarms(15, ADVERSARIAL_ADVICE)
    note_steps(alarms, range(11, 15), **scalars)
    note_steps(alarms, range(15, 16))  # a healthy step restarts the window
    note_steps(alarms, range(16, 20), **scalars)
    assert capsys.readouterr().err == ""
    note_steps(alarms, range(20, 60), **scalars)
    message = capsys.readouterr().err
    assert message.count("alarm") == 1
    assert f"add: alarm {name}: " in message and "since step 16; " in message and ADVERSARIAL_ADVICE[name] in message
    assert alarms.metrics()[f"alarms_{name}"] == 1
    assert alarms.metrics()[f"alarms_{name}_since_step"] == 16
    note_steps(alarms, range(60, 61))
    note_steps(alarms, range(61, 70), **scalars)
    assert alarms.counts[name] == 2
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("num_steps", "window_steps"), [(2, 1), (90, 30), (10_000, 200)])
def test_the_window_is_a_third_of_the_training_and_at_most_200_steps(num_steps: int, window_steps: int) -> None:
    alarms = Alarms(num_steps, ADVERSARIAL_ADVICE)
    note_steps(alarms, range(1, window_steps), disc_loss=0.0)
    assert alarms.counts["saturated_discriminator"] == 0
    alarms.note_step(window_steps, {**HEALTHY, "disc_loss": 0.0})
    assert alarms.counts["saturated_discriminator"] == 1


def test_colours_that_drift_cause_an_alarm(capsys: pytest.CaptureFixture[str]) -> None:
    alarms = Alarms(15, ADVERSARIAL_ADVICE)
    alarms.note_validation(0, colour_drift=0.2, diversity=1.0, prompt_match=0.9)
    alarms.note_validation(50, colour_drift=0.9, diversity=1.0, prompt_match=0.9)
    message = capsys.readouterr().err
    assert "colour_drift" in message and "0.9" in message and "since step 50; lower add.adv_weight" in message
    assert alarms.metrics()["alarms_colour_drift"] == 1


def test_diversity_below_four_fifths_of_the_first_causes_an_alarm_in_a_resumed_run_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    alarms, resumed = Alarms(15, ADVERSARIAL_ADVICE), Alarms(15, ADVERSARIAL_ADVICE)
    alarms.note_validation(0, colour_drift=0.0, diversity=1.0, prompt_match=0.9)
    resumed.load_state_dict(alarms.state_dict())
    resumed.note_validation(25, colour_drift=0.0, diversity=0.85, prompt_match=0.9)
    assert capsys.readouterr().err == ""
    resumed.note_validation(50, colour_drift=0.0, diversity=0.3, prompt_match=0.9)
    message = capsys.readouterr().err
    assert "falling_diversity: the diversity of samples of one prompt is 0.3, and was 1 at the start, since" in message
    assert resumed.metrics()["alarms_falling_diversity"] == 1


def test_pictures_that_stop_following_their_prompts_cause_an_alarm(capsys: pytest.CaptureFixture[str]) -> None:
    alarms, resumed = Alarms(15, ADVERSARIAL_ADVICE), Alarms(15, ADVERSARIAL_ADVICE)
    alarms.note_validation(0, colour_drift=0.0, diversity=1.0, prompt_match=0.97)
    resumed.load_state_dict(alarms.state_dict())
    resumed.note_validation(25, colour_drift=0.0, diversity=1.0, prompt_match=0.94)
    assert capsys.readouterr().err == ""
    resumed.note_validation(50, colour_drift=0.0, diversity=1.0, prompt_match=0.9)
    assert "lost_prompts: the prompt match, a fraction, is 0.9, and was 0.97 at the start" in capsys.readouterr().err
    assert resumed.metrics()["alarms_lost_prompts"] == 1
