"""Reporting: figures and the table of a run, from artifacts alone.

Nothing here starts a cluster or loads a model; matplotlib and rich load when something is drawn.
"""
