"""Real planes, real Ray Serve, real vLLM."""
