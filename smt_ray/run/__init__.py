"""One run: its flow, its record, and the commands on finished runs."""
