"""Tracking: one writer sends a run to MLflow, and a run on disk can always be sent again.

``records`` is the format of metrics, ``mlflow_tracker`` is the only file that imports mlflow,
``robust`` keeps a failing tracker from failing or slowing a run, and ``replay`` sends a whole run
from disk. Importing this package does not import mlflow.
"""
