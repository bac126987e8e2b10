"""Models: loading a base model and its tokenizer, its eligible linears, its size, its identity."""
