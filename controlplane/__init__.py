"""The control plane: a registry of models and adapters that pushes its snapshots."""
