"""Reporting: figures, the table and the page of a run, from artifacts alone.

Nothing here starts a cluster or loads a model; matplotlib, jinja2 and rich load when something is
drawn.
"""
