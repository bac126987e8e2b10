"""Warm-up: one shard's work and how shards are added up, without ray (paper section 3.2)."""
