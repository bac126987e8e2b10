"""Tasks of lm-evaluation-harness over local rows, which need no network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

CHOICE = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: label
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
TEXT = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{choices[label]}}}}"
generation_kwargs: {{until: ["7"], max_gen_toks: 12, do_sample: false}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""
PERPLEXITY = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{question}}}}"
metric_list: [{{metric: word_perplexity}}, {{metric: bits_per_byte}}]
"""
FORMS = {"choice": CHOICE, "text": TEXT, "perplexity": PERPLEXITY}


@pytest.fixture
def make_task(tmp_path: Path) -> Callable[..., Path]:
    """Writes the YAML file of a task, with its rows beside it."""

    def make(
        form: str = "choice", folder: str = "tasks", num_rows: int = 12, more: str = ""
    ) -> Path:
        place = tmp_path / folder
        place.mkdir(exist_ok=True)
        rows = [
            {
                "question": f"What is {'very ' * (i % 4)}{i} plus 1?",
                "choices": [str(i), str(i + 1), f"not {i}"],
                "label": i % 3,
            }
            for i in range(num_rows)
        ]
        (place / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
        file = place / f"{form}.yaml"
        file.write_text(FORMS[form].format(name=form, rows=place / "rows.jsonl") + more)
        return file

    return make
