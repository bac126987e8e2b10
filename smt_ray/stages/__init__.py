"""The stages of a run on Ray: their plan, their jobs, and one file for each stage."""
