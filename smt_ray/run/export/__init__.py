"""The tuned model of a run for others: a plain model with its card, GGUF, a model of MLflow."""
