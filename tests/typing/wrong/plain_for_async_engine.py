# gate: mypy [assignment]
"""An engine with a plain method where the contract has an async one. `isinstance` lets it pass."""

from isolane.contracts import Authenticator, Identity


class HeaderAuthenticator:
    def authenticate(self, token: str) -> Identity:
        return Identity(token, None)


authenticator: Authenticator = HeaderAuthenticator()  # here
