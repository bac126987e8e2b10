"""Memory and cost of a run, by arithmetic and by runs on tensors that hold nothing."""
