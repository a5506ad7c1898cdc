"""`python -m isolane`."""

from isolane.cli import main

main(prog_name="isolane")
