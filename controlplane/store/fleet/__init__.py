"""What the store keeps of data planes and of the control planes that serve them."""
