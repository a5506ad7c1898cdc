"""One folder for each technology, with every contract that it keeps. None imports another."""
