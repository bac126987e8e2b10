"""Searches: Ray Tune over runs."""
