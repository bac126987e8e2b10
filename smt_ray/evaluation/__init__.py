"""Evaluation: one process's work, from rows to predictions.

``tasks`` describes the published and built-in tasks as data; ``generate`` and ``likelihood`` are
the two protocols; ``answers`` reads an answer from a text; ``predict`` makes one prediction for
each row; ``metrics`` summarises them. A prediction depends on its row alone, so rows can be split
over any number of processes and their predictions joined again.
"""
