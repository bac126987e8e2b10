"""Conversations as text, by the tokenizer's chat template: what is learned, and what gets lost."""
