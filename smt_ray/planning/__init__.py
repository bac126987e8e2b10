"""The memory of a run before it is started, from arithmetic and from runs on empty tensors."""
