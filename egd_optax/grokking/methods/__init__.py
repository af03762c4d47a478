"""How each method is put together: as published, and as it is tuned."""
