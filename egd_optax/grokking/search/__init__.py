"""A search over the settings of every method, on equal terms."""
