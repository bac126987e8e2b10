"""Documents about what a storage keeps: its runs, what differs between two, and who uses it."""
