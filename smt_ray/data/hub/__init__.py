"""Rows from the Hugging Face hub: any dataset, and the original datasets of the published tasks."""
