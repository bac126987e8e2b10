"""Comparisons: grids of runs with claims and intervals."""
