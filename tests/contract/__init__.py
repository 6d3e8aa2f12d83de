"""One suite for both databases that the store runs on."""
