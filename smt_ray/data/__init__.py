"""Data: sources -> rows -> prompts -> tokens -> batches.

Each arrow is a value that can be printed, saved and tested alone.
"""
