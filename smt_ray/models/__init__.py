"""Base models: loading and saving them, their tokenizers, linears, sizes and identities."""
