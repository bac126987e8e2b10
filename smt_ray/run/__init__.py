"""One run: its flow, its record, and what is done with a finished run."""
