"""``python -m smt_ray``."""

from smt_ray.cli import main

main()
