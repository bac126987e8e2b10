"""The method, sparse matrix tuning of a torch model, which only needs torch and safetensors.

A gradient sum (:mod:`gradients`) becomes a score table (:mod:`scores`). The scores of a table or of
a control (:mod:`controls`) become a selection of blocks (:mod:`selection`). A selection turns
linears into sparse ones (:mod:`model`, :mod:`linear`, :mod:`functional`). The trained blocks are an
adapter (:mod:`adapter`). Each of these values can be printed, saved, loaded and tested alone.
"""
