"""The names of the folders and files in a storage.

::

    stages/<kind>-<fingerprint>/   the artifacts of the stage, and manifest.json, written last
    runs/<name>/                   run.json names the run's stages
    comparisons/<name>/            comparison.json, tables, pictures, report.html
    searches/<name>/               search.json, trials.json, pictures, report.html
    evaluations/<stage>.json       the stage of an evaluation that belongs to no run
    probes/<fingerprint>.json      what an architecture allows
    in_use/<id>.json               a process that uses the storage
"""

from __future__ import annotations

from smt_ray.errors import UserError
from smt_ray.names import NAME_RULE, is_name

# The files of a stage.
MANIFEST = "manifest.json"
TOKENS = "tokens.safetensors"
SCORE_TABLE = "score_table.safetensors"
KEPT_VALUES = "modules"  # a file for each module, from which elements or columns are selected
SELECTION = "selection.safetensors"
SELECTION_PICTURE = "selection.png"
RECORDS = "metrics.jsonl"
ADAPTER = "adapter"
PROMPT = "smt_ray_prompt.json"  # in the folder of an adapter or of a merged model
KEPT_MODEL = "model"  # the weights that a trained warm-up updated
CHECKPOINTS = "checkpoints"
BEST_STEP = "best.json"  # names one of the checkpoints
BEST_ADAPTER = "adapter_best"  # of the best step, if that is not the last one
EVALUATION_METRICS = "metrics.json"
LM_EVAL_RESULTS = "lm_eval.json"  # in the library's own form, with a sample of every row

# The files of a run.
RUN = "run.json"
RUN_METRICS = "metrics.json"
RUN_CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
RUN_TABLE = "table.md"
CURVES_PICTURE = "curves.png"

# The files of a comparison.
COMPARISON = "comparison.json"
COMPARISON_CONFIG = "comparison.yaml"
COMPARISON_TABLES = "comparison.md"

# The files of a search.
SEARCH = "search.json"
SEARCH_CONFIG = "search.yaml"
SEARCH_TABLE = "search.md"
TRIALS = "trials.json"
SEARCH_SETTINGS = "settings.json"
BEST_CONFIG = "best.yaml"

# The page of a run, a comparison or a search.
REPORT = "report.html"

STAGES_FOLDER, RUNS_FOLDER = "stages", "runs"
COMPARISONS_FOLDER, SEARCHES_FOLDER = "comparisons", "searches"
EVALUATIONS_FOLDER, PROBES_FOLDER, USES_FOLDER = "evaluations", "probes", "in_use"
TUNE_FOLDER = "tune"  # Ray Tune's own files, in the folder of a search


def _checked(name: str) -> str:
    """A name, which must not lead out of its folder.

    Raises:
        UserError: It is no name.
    """
    if not is_name(name):
        raise UserError("name", NAME_RULE, got=name)
    return name


def stage_folder(name: str) -> str:
    """The folder of a stage, as the storage names it."""
    return f"{STAGES_FOLDER}/{_checked(name)}"


def run_folder(name: str) -> str:
    """The folder of a run, as the storage names it."""
    return f"{RUNS_FOLDER}/{_checked(name)}"


def comparison_folder(name: str) -> str:
    """The folder of a comparison, as the storage names it."""
    return f"{COMPARISONS_FOLDER}/{_checked(name)}"


def search_folder(name: str) -> str:
    """The folder of a search, as the storage names it."""
    return f"{SEARCHES_FOLDER}/{_checked(name)}"


def predictions_file(protocol: str, task: str) -> str:
    """The file of a task's predictions, within an evaluation stage."""
    return f"{protocol}/{task}.jsonl"
