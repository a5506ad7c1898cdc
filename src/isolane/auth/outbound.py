"""The HTTP client for requests to providers, with its certificate authorities and its proxy.

Many companies have an authority of their own, and let requests out only through a proxy.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import httpx
from pydantic import SecretStr

from isolane.settings import InvalidSettings, Settings

CA_VARIABLES: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR")
"""OpenSSL's variables. Their certificates replace the system's store."""
BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
"""Certificate stores of Debian and Alpine, Red Hat, SUSE and others. A Python that was built
elsewhere doesn't know where they are."""
NEAR: Final = ("http://localhost", "http://127.0.0.1", "http://[::1]")
"""Plain addresses of this machine. Requests to them use no proxy, because they cross no network."""


def create_http(settings: Settings, environ: Mapping[str, str]) -> httpx.AsyncClient:
    """Return an HTTP client; the caller closes it.

    Raises:
        InvalidSettings: The environment names certificates or a proxy that can't be used.
    """
    tls = make_tls(settings.provider_ca_file, environ)
    proxy = _make_proxy(settings.provider_proxy, tls)
    try:
        # Here `trust_env` reads only HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY.
        return httpx.AsyncClient(
            verify=tls, proxy=proxy, trust_env=proxy is None, mounts=dict.fromkeys(NEAR)
        )
    except (ValueError, ImportError, httpx.InvalidURL) as error:
        raise InvalidSettings(
            f"HTTPS_PROXY, HTTP_PROXY or ALL_PROXY can't be used to ask providers: {error}. Set "
            f"ISOLANE_PROVIDER_PROXY to an http:// proxy, or unset them."
        ) from error


def _make_proxy(named: SecretStr | None, tls: ssl.SSLContext) -> httpx.Proxy | None:
    if named is None:
        return None
    address = httpx.URL(named.get_secret_value())
    return httpx.Proxy(address, ssl_context=tls if address.scheme == "https" else None)


def make_tls(ca_file: Path | None, environ: Mapping[str, str]) -> ssl.SSLContext:
    """Return the TLS context that checks certificates of providers.

    `ca_file` adds authorities to those of the system.

    Raises:
        InvalidSettings: The environment names certificates that can't be read.
    """
    cafile, capath = (environ.get(name) or None for name in CA_VARIABLES)
    if cafile or capath:
        context = _read_named(cafile, capath)
    else:
        context = httpx.create_ssl_context(trust_env=False)  # the public authorities
        context.load_default_certs()
        for bundle in BUNDLES:
            with suppress(OSError):
                context.load_verify_locations(cafile=bundle)
    if ca_file is not None:
        context.load_verify_locations(cafile=ca_file)
    # Python 3.13 sets this flag by default. Authorities of companies often lack what it demands,
    # such as the identifier of their own key.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def _read_named(cafile: str | None, capath: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=cafile, capath=capath)
    except OSError as error:
        held = " and ".join(each for each in (cafile, capath) if each)
        raise InvalidSettings(
            f"{' or '.join(CA_VARIABLES)} can't be used: {held} can't be read as certificates "
            f"({error})."
        ) from error
