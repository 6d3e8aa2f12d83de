"""Both ends of the Sync stream under damaged, replayed and made-up messages."""
