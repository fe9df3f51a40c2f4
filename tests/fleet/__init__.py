"""A simulated fleet: OpenSandbox on Kubernetes in one process, by the rules of its sources."""
