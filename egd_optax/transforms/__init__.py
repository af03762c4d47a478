"""What a user puts into a chain of optax: one file a method."""
