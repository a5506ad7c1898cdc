"""The engines that live in one process: the bell, limits, rates and the order of runs."""
