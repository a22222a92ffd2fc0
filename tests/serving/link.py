"""A connection that can be cut and mended: a port that forwards to a server, as long as it is up."""

import socket
import threading
from contextlib import suppress
from urllib.parse import urlsplit

from sqlalchemy import make_url


class Link:
    """Forwards connections. While it is down, it ends those that there are and every new one."""

    def __init__(self, family: socket.AddressFamily, address: object) -> None:
        self._target = family, address
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self.up = True
        threading.Thread(target=self._accept, daemon=True).start()

    @classmethod
    def to_database(cls, url: str) -> "Link":
        parsed = make_url(url)
        folder = parsed.query.get("host")
        if folder:
            return cls(socket.AF_UNIX, f"{folder}/.s.PGSQL.{parsed.query.get('port', parsed.port or 5432)}")
        return cls(socket.AF_INET, (parsed.host, parsed.port))

    @classmethod
    def to_server(cls, url: str) -> "Link":
        return cls(socket.AF_INET, ("127.0.0.1", urlsplit(url).port))

    def database_url(self, url: str) -> str:
        """The URL of the same database, by way of the link."""
        through = make_url(url).set(host="127.0.0.1", port=self.port, query={})
        return through.render_as_string(hide_password=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cut(self) -> None:
        self.up = False
        for each in self._open:
            _end(each)
        self._open.clear()

    def mend(self) -> None:
        self.up = True

    def close(self) -> None:
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if not self.up:
                    client.close()
                    continue
                server = socket.socket(self._target[0])
                server.connect(self._target[1])
                self._open += [client, server]
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=_forward, args=(source, sink), daemon=True).start()


def _forward(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    _end(sink)


def _end(each: socket.socket) -> None:
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()
