"""The events of runs, and what is made of them: their order, their messages, their state. Pure."""
