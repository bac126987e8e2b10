"""The command line: one file a group of commands, and no heavy import before a command runs."""

from smt_ray.cli.app import main
from smt_ray.cli.errors import exit_with, find_user_error

__all__ = ["exit_with", "find_user_error", "main"]
