"""Fine-tunes a model: warms up, selects, trains and evaluates.

Usage::

    ray job submit --working-dir . -- python pipelines/finetune.py CONFIG key=value ...

It takes the arguments of ``smt-ray run``.
"""

from smt_ray.cli import main

if __name__ == "__main__":
    main("run")
