"""Evaluation: one process's work, rows in and predictions out.

``tasks`` says what each published or built-in task is, as data; ``answers`` reads an answer out of
a text; ``generate`` and ``likelihood`` are the two protocols that ask a model; ``predict`` joins
these into one record a row, and ``metrics`` counts. Nothing here keeps state, so rows may be split
over any number of processes and their predictions joined again.
"""
