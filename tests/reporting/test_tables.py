"""Tables have a column for each subject and a row for each metric."""

from naruto_add.reporting.tables import Cell, ablation_table, markdown_table, metrics_table, subject_table

METRICS = {
    "teacher.fd_lite1": 12.3456789,
    "distilled.fd_lite1": 13.5,
    "teacher.latency_ms": 1500.25,
    "distilled.latency_ms": 31.5,
    "distilled.of_another_project": 4_200_000,
    "distilled.fd_lite1_low": 11.0,
    "distilled.fd_lite1_high": 16.25,
    "distilled.fd_lite1_n_small": 1,
    "distilled.density": 0.875,
    "real.fd_lite1": 2.0,
}


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_headline_metrics_with_intervals() -> None:
    head, rule, *rows = metrics_table(METRICS).splitlines()
    assert _cells(head) == ["metric", "better", "teacher", "distilled"]
    assert [_cells(row) for row in rows] == [
        ["fd_lite1 †", "lower", "12.35", "13.5 (11 to 16.25)"],
        ["latency_ms", "lower", "1,500", "31.5"],
        ["of_another_project", "", "", "4,200,000"],
    ]
    assert {len(row) for row in rows} == {len(head)} == {len(rule)}


def test_cells_are_padded() -> None:
    assert markdown_table(["a", "bb"], [["long", "1"]]).splitlines() == [
        "| a    | bb |",
        "| ---- | -: |",
        "| long |  1 |",
    ]


def test_a_subject_table_has_the_subjects_it_is_given() -> None:
    table = subject_table(METRICS, ("distilled", "real"), headline_only=True)
    assert table.columns == ["distilled", "real"]
    row = table.rows[0]
    assert (row.name, row.few) == ("fd_lite1", True)
    assert row.cells == [Cell("13.5", "11 to 16.2"), Cell("2", "")]
    assert "density" not in [row.name for row in table.rows]
    assert "density" in [row.name for row in subject_table(METRICS, ("distilled",), headline_only=False).rows]


def test_an_ablation_table_has_mean_and_spread() -> None:
    figures = {"full.num_seeds": 3, "full.fd_lite1.mean": 250.25, "full.fd_lite1.std": 4.5, "no_warm_up.num_seeds": 1}
    table = ablation_table(figures | {"no_warm_up.pd_lite1.mean": 0.5})
    assert table.columns == ["full", "no warm up"]
    assert {row.name: row.cells for row in table.rows} == {
        "fd_lite1": [Cell("250.2", "± 4.5, 3 seeds"), Cell("", "")],
        "pd_lite1": [Cell("", ""), Cell("0.5", "1 seed")],
    }
