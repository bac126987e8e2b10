"""Configuration: one frozen, strict tree; a YAML file plus ``key=value`` overrides make one.

A leaf of the package: it imports neither torch nor ray, so that the command line answers at once.
"""
