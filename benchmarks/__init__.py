"""Ratios to other implementations, measured side by side in one run; see README.md here."""
