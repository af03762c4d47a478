"""What is learned: tasks, models, losses, and what sources made of them."""
