"""Artifacts: the stage store. What a stage made is kept under a fingerprint of what made it."""
