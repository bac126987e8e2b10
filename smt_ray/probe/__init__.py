"""What an architecture allows, found by trying it on a small model with random weights.

A config's keys do not say whether packed rows, padding or hooks change what a model computes. So
the architecture is shrunk (:mod:`shrink`), its training steps are compared with one row at a time
(:mod:`steps`), and so are padded batches of inference (:mod:`inference`). :mod:`probe` puts the
findings together.
"""
