"""The command line: one file for each group of commands, and no heavy imports at the top."""

from smt_ray.cli.app import main
from smt_ray.cli.errors import exit_with, find_user_error

__all__ = ["exit_with", "find_user_error", "main"]
