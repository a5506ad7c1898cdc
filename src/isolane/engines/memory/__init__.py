"""What one process keeps in memory: the bell, the limits, the rates and whose turn it is."""
