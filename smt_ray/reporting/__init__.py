"""Reporting: tables, charts and pages, made from the documents of runs, comparisons and searches.

Nothing here starts a cluster or loads a model. Matplotlib, jinja2 and rich are imported when
something is drawn or printed.
"""
