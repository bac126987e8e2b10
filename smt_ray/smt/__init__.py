"""The method: sparse matrix tuning of a torch model, and nothing but torch and safetensors.

A gradient sum (:mod:`gradients`) becomes a score table (:mod:`scores`); a table's scores, or a
control's (:mod:`controls`), become a selection of blocks (:mod:`selection`); a selection turns
chosen linears into sparse ones (:mod:`model`, :mod:`linear`, :mod:`functional`), and what training
changed is an adapter (:mod:`adapter`). Every one of these values can be printed, saved, loaded and
tested alone.
"""
