"""The grokking workbench: tasks, models, recipes and a compiled training program."""
