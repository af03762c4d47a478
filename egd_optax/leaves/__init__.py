"""How a tree of parameters is seen as matrices, and what is refused there."""
