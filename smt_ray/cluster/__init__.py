"""The Ray cluster: session, credentials, nodes, resources, waiting, and actors by the driver."""
