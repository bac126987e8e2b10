"""What single commands print: rows, overlaps, dry runs, conversations."""
