"""What clients send and are sent, ours and those of others, as values. Pure."""
