"""The time of a run before it is started, from its FLOPs and from the stated peaks of GPUs."""
