"""A run: all its steps and seeds in one compiled program, and what it leaves."""
