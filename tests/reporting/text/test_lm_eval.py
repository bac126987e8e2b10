"""Claims about the table of the metrics of lm-evaluation-harness."""

from __future__ import annotations

from smt_ray.documents.lm_eval import LmEvalMetric, LmEvalResult, LmEvalResults
from smt_ray.documents.run import RunMetrics
from smt_ray.reporting.text.lm_eval import lm_eval_cells


def result(acc: float, ppl: float | None) -> LmEvalResult:
    return LmEvalResult(
        num_rows=1200,
        num_fewshot=5,
        metrics=[
            LmEvalMetric(name="acc", value=acc, stderr=0.01, higher_is_better=True),
            LmEvalMetric(name="ppl", filter="first", value=ppl, higher_is_better=False),
        ],
    )


def test_each_metric_has_its_row_with_errors_direction_and_change() -> None:
    results = LmEvalResults(base=result(0.5, None), tuned=result(0.75, 8.0))
    cells = lm_eval_cells(RunMetrics(lm_eval={"arc": results}))
    assert cells is not None
    assert cells.head == ("lm-eval", "rows", "shots", "base", "tuned", "change")
    assert cells.rows == (
        ("arc, acc ↑", "1,200", "5", "0.5000 (± 0.0100)", "0.7500 (± 0.0100)", "+0.2500"),
        ("arc, ppl, first ↓", "1,200", "5", "-", "8.0000", "-"),
    )


def test_columns_without_values_are_left_out() -> None:
    cells = lm_eval_cells(RunMetrics(lm_eval={"arc": LmEvalResults(tuned=result(0.5, 2.0))}))
    assert cells is not None
    assert cells.head == ("lm-eval", "rows", "shots", "tuned")


def test_a_run_without_such_tasks_has_no_such_table() -> None:
    assert lm_eval_cells(RunMetrics()) is None
