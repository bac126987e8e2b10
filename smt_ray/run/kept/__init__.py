"""What a storage keeps: its runs, the difference between two of them, and what can be deleted."""
