"""The storage of stages and runs. A stage is found by a fingerprint of its inputs."""
