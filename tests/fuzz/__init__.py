"""``make fuzz``: random layers against the reference."""
