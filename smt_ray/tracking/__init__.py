"""Tracking: one writer sends a run to MLflow; what is on disk can always be sent again.

``records`` is the wire form of metrics, ``mlflow_tracker`` the only file that imports mlflow,
``robust`` keeps a failing tracker from failing or slowing a run, ``replay`` sends a whole run from
disk. Importing this package imports no mlflow.
"""
