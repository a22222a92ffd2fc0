"""Serves the API on a listening socket that the supervisor opened; run as `python -m embedded.serve FD`."""

import socket
import sys

import uvicorn

from registry.base.settings import Settings


def main() -> None:
    listener = socket.socket(fileno=int(sys.argv[1]))
    config = uvicorn.Config(
        "registry.api.app:app_factory",
        factory=True,
        access_log=False,  # the application logs each request itself
        log_config=None,
        forwarded_allow_ips=Settings().trusted_proxies,
        timeout_graceful_shutdown=5,
    )
    uvicorn.Server(config).run(sockets=[listener])


main()
