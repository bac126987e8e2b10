"""The stages of a run on Ray: what they consist of, what crosses their processes, one file each."""
