"""What comparisons and searches share: many runs, a parent run, learning rates."""
