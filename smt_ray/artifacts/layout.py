"""Where everything lies in a storage: the names of its folders and files.

::

    stages/<kind>-<fingerprint>/   manifest.json, written last, and the artifacts of the stage
    runs/<name>/                   run.json names the run's stages
    comparisons/<name>/            comparison.json, tables, pictures, report.html
    searches/<name>/               search.json, trials.json, pictures, report.html
"""

from __future__ import annotations

# Of a stage.
MANIFEST = "manifest.json"
TOKENS = "tokens.safetensors"
SCORE_TABLE = "score_table.safetensors"
SELECTION = "selection.safetensors"
SELECTION_PICTURE = "selection.png"
RECORDS = "metrics.jsonl"
ADAPTER = "adapter"
KEPT_MODEL = "model"  # the weights that a warm-up with mode: trained updated
CHECKPOINTS = "checkpoints"
BEST_CHECKPOINT = "best"  # among the checkpoints
EVALUATION_METRICS = "metrics.json"

# Of a run.
RUN = "run.json"
RUN_METRICS = "metrics.json"
RUN_CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
RUN_TABLE = "table.md"
CURVES_PICTURE = "curves.png"

# Of a comparison.
COMPARISON = "comparison.json"
COMPARISON_CONFIG = "comparison.yaml"
COMPARISON_TABLES = "comparison.md"

# Of a search.
SEARCH = "search.json"
SEARCH_CONFIG = "search.yaml"
SEARCH_TABLE = "search.md"
TRIALS = "trials.json"
ASKED = "asked.json"
BEST_CONFIG = "best.yaml"

# Of a run, a comparison or a search.
REPORT = "report.html"

STAGES_FOLDER, RUNS_FOLDER = "stages", "runs"
COMPARISONS_FOLDER, SEARCHES_FOLDER = "comparisons", "searches"


def stage_folder(name: str) -> str:
    """The folder of a stage, as the storage names it."""
    return f"{STAGES_FOLDER}/{name}"


def run_folder(name: str) -> str:
    """The folder of a run, as the storage names it."""
    return f"{RUNS_FOLDER}/{name}"


def comparison_folder(name: str) -> str:
    """The folder of a comparison, as the storage names it."""
    return f"{COMPARISONS_FOLDER}/{name}"


def search_folder(name: str) -> str:
    """The folder of a search, as the storage names it."""
    return f"{SEARCHES_FOLDER}/{name}"


def predictions_file(protocol: str, task: str) -> str:
    """The file of a task's predictions, within an evaluation stage."""
    return f"{protocol}/{task}.jsonl"
