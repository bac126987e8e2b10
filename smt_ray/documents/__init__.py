"""Typed documents: what is written to disk as JSON and read by reporting, tracking and the CLI."""
