"""The loss of micro-batches and of texts, computed only where there are targets."""
