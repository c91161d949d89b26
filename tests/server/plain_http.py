"""A client of the servers of these tests, which speak plain HTTP: it reads no certificates, which takes 50 ms each."""

import ssl

import httpx


def client_of(url: str, *, timeout: float = 5.0, trust_env: bool = True) -> httpx.Client:
    """Return a client of the server at an address.

    Args:
        url: The address.
        timeout: Seconds that it waits for an answer.
        trust_env: Whether it heeds the proxies that the environment names.
    """
    return httpx.Client(
        base_url=url, timeout=timeout, trust_env=trust_env, verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    )
