"""The events of runs: their order, and the messages and the state that they add up to. Pure."""
