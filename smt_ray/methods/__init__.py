"""Methods: what is trained, each behind the same small protocol."""
