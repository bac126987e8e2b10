"""The methods, SMT and its baselines, behind one small protocol."""
