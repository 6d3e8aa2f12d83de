"""The data plane: Ray Serve applications that serve what the active snapshot says, behind an OpenAI
ingress."""
