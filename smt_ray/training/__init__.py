"""Training: one rank's work, without ray. Loss, schedule, engine, loop, checkpoint state."""
