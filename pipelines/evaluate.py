"""Evaluates a run's tuned model, or any model.

Usage::

    ray job submit --working-dir . -- python pipelines/evaluate.py --run NAME --task boolq

It takes the arguments of ``smt-ray evaluate``.
"""

import sys

from smt_ray.cli import app, exit_with

if __name__ == "__main__":
    exit_with(lambda: app(["evaluate", *sys.argv[1:]]))
