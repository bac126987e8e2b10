"""Orchestration: the only imports of ray. Graph, trainer, evaluator; flows join them into runs."""
