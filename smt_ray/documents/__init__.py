"""Typed documents, which are stored as JSON and read by reporting, tracking and the CLI."""
