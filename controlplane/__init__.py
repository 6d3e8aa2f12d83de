"""The control plane: the registry of models and adapters, and the server that pushes its
snapshots."""
