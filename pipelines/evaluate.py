"""Evaluates the tuned model of a run, or any other model.

Usage::

    ray job submit --working-dir . -- python pipelines/evaluate.py --run NAME --task boolq

It takes the arguments of ``smt-ray evaluate``.
"""

from smt_ray.cli import main

if __name__ == "__main__":
    main("evaluate")
