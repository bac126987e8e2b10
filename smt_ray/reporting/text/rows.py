"""What became of the rows of a run, in words."""

from __future__ import annotations

from smt_ray.documents.rows import RowCounts, TokensSummary

MANY = 0.1
"""The share of rows from which on leaving them out or cutting them is a warning."""


def rows_text(rows: TokensSummary) -> str:
    """The rows of a run in one line: how many there are, what was left out, the prompt form."""
    training = rows.training
    parts = [
        f"{training.num_rows:,} for training",
        _share(training.num_dropped, training.num_given, "too long to learn from"),
        _share(training.bad.number + rows.unread.number, training.num_given, "bad, left out"),
        _share(training.num_truncated, training.num_rows, "truncated"),
        f"{rows.validation.num_rows:,} for validation" if rows.validation else "",
        f"{rows.num_moved:,} moved out of training, identical to these" if rows.num_moved else "",
        f"prompt form {rows.prompt}",
    ]
    return ", ".join(filter(None, parts))


def row_warnings(rows: TokensSummary) -> list[str]:
    """What a user should know about the rows before trusting a result, one sentence each."""
    found = [*_warnings("training", rows.training)]
    if rows.validation:
        found += _warnings("validation", rows.validation)
    if rows.unread.number:
        found.append(f"{rows.unread.number:,} rows cannot be read, such as {rows.unread.first}")
    return found


def _warnings(name: str, counts: RowCounts) -> list[str]:
    found = []
    if counts.num_dropped and counts.num_dropped / counts.num_given > MANY:
        found.append(
            f"{counts.num_dropped:,} of {counts.num_given:,} {name} rows are dropped, because they"
            " are longer than data.max_length or have no token to learn within it"
        )
    if counts.truncated_share > MANY:
        found.append(
            f"{counts.num_truncated:,} of {counts.num_rows:,} {name} rows are truncated to"
            " data.max_length"
        )
    if counts.bad.number:
        found.append(
            f"{counts.bad.number:,} {name} rows cannot be used, such as {counts.bad.first}"
        )
    if counts.num_rewritten:
        found.append(
            f"the chat template rewrites earlier turns: of {counts.num_rewritten:,}"
            f" {name} conversations, only the turns that it leaves as they are, such as the last"
            " one, are learned"
        )
    found += [
        f"the chat template does not write the {what} of {number:,} {name} rows"
        for what, number in counts.left_out.items()
    ]
    return found


def _share(number: int, of: int, what: str) -> str:
    return f"{number:,} ({number / of:.1%}) {what}" if number and of else ""
