"""Ratios against peers, measured side by side in one run; see README.md beside this file."""
