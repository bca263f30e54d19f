"""The scores that metrics/add.json reports."""

from naruto_add.training.add.score_history import ScoreHistory


def test_the_scores_of_the_first_and_of_the_best_validation_are_reported_and_survive_a_resumption() -> None:
    history, resumed = ScoreHistory(), ScoreHistory()
    history.add({"score": 0.5, "colour_drift": 0.1}, is_best=True)
    resumed.load_state_dict(history.state_dict())
    resumed.add({"score": 0.3, "colour_drift": 0.2}, is_best=True)
    resumed.add({"score": 0.4, "colour_drift": 0.3}, is_best=False)
    assert resumed.metrics() == {
        "start_score": 0.5,
        "start_colour_drift": 0.1,
        "best_score": 0.3,
        "best_colour_drift": 0.2,
    }
