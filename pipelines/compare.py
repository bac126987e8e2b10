"""Compares methods and settings: carries out a grid of runs and writes its tables and figures.

Usage::

    ray job submit --working-dir . -- python pipelines/compare.py CONFIG key=value ...

It takes the arguments of ``smt-ray compare``.
"""

from smt_ray.cli import main

if __name__ == "__main__":
    main("compare")
