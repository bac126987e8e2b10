"""The tasks of lm-evaluation-harness, answered by our evaluation workers.

lm-evaluation-harness builds the requests, filters the answers and computes the metrics, all in the
driver. Its model there hands the requests over to the workers, and its Hugging Face model answers
them in each worker.
"""
