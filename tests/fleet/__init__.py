"""A fleet that is not there: OpenSandbox on Kubernetes as its sources describe it, simulated in one process."""
