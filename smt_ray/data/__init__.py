"""Data: sources -> rows -> prompts -> tokens -> batches.

Each step returns a value that can be printed, saved and tested alone.
"""
