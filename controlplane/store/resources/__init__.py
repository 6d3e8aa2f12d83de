"""What the store keeps for each kind of resource of the catalog."""
