"""Fine-tunes: warm-up, selection, training, evaluation.

Usage::

    ray job submit --working-dir . -- python pipelines/finetune.py CONFIG key=value ...

It takes the arguments of ``smt-ray run``.
"""

import sys

from smt_ray.cli import exit_with, run_config

if __name__ == "__main__":
    exit_with(lambda: run_config(sys.argv[1:]))
