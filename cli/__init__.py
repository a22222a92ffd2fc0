"""The command `melo`: one module per group of commands."""
