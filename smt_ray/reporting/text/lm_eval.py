"""The table of the metrics that lm-evaluation-harness computed."""

from __future__ import annotations

from smt_ray.documents.lm_eval import LmEvalMetric, LmEvalResults
from smt_ray.documents.run import RunMetrics
from smt_ray.reporting.text.tables import Cells
from smt_ray.reporting.text.values import MISSING, number_text

LM_EVAL_LEGEND = (
    "lm-evaluation-harness; value (± its standard error); ↑ higher is better, ↓ lower is better"
)
"""The note below the table."""

_ARROWS = {True: " ↑", False: " ↓", None: ""}


def lm_eval_cells(metrics: RunMetrics) -> Cells | None:
    """A row for each metric of each task or group; None without any.

    Columns without values are left out.
    """
    rows = [row for name, results in metrics.lm_eval.items() for row in _task_rows(name, results)]
    if not rows:
        return None
    head = ("lm-eval", "rows", "shots", "base", "tuned", "change")
    shown = [i for i in range(len(head)) if any(row[i] != MISSING for row in rows)]
    return Cells(
        tuple(head[i] for i in shown),
        tuple(tuple(row[i] for i in shown) for row in rows),
        len(shown) - 1,
    )


def _task_rows(name: str, results: LmEvalResults) -> list[tuple[str, ...]]:
    found = [result for _, result in results if result]
    keys = dict.fromkeys(metric.key for result in found for metric in result.metrics)
    rows: list[tuple[str, ...]] = []
    for key in keys:
        base = results.base.metric(key) if results.base else None
        tuned = results.tuned.metric(key) if results.tuned else None
        known = tuned or base
        arrow = _ARROWS[known.higher_is_better] if known else ""
        num_rows, shots = number_text(found[0].num_rows, "{:,}"), found[0].num_fewshot
        rows.append(
            (
                f"{name}, {key}{arrow}",
                num_rows,
                number_text(shots, "{:d}"),
                _value(base),
                _value(tuned),
                _change(base, tuned),
            )
        )
    return rows


def _value(metric: LmEvalMetric | None) -> str:
    if metric is None or metric.value is None:
        return MISSING
    error = "" if metric.stderr is None else f" (± {metric.stderr:.4f})"
    return f"{metric.value:.4f}{error}"


def _change(base: LmEvalMetric | None, tuned: LmEvalMetric | None) -> str:
    if base is None or tuned is None or base.value is None or tuned.value is None:
        return MISSING
    return f"{tuned.value - base.value:+.4f}"
