"""One suite for every database that the store runs on."""
