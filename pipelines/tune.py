"""Searches the settings of a run by validation loss, and evaluates the winner.

Usage::

    ray job submit --working-dir . -- python pipelines/tune.py CONFIG key=value ...

It takes the arguments of ``smt-ray tune``.
"""

from smt_ray.cli import main

if __name__ == "__main__":
    main("tune")
