"""Prints tokens of the users u1, u2 and so on, one per line: `python tokens.py DATA COUNT`.

A process of its own, so that it can run on the source of the server that shall take the tokens.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from isolane.app import make_issuer
from isolane.settings import load_settings

LIFE_S: Final = 86_400


def main() -> None:
    """Print the tokens."""
    data, count = sys.argv[1:]
    issuer = make_issuer(load_settings({"data": Path(data)}))
    for number in range(1, int(count) + 1):
        print(issuer.issue(f"u{number}", expires_s=LIFE_S))


if __name__ == "__main__":
    main()
