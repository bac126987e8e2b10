"""Ray's cluster: the session, nodes, places, waiting, the progress board, the writer, locks."""
