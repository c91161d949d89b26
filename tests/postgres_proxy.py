"""A proxy in front of a PostgreSQL server that counts round trips, loses answers, and cuts connections."""

import contextlib
import socket
import threading

_IDLE = b"Z\x00\x00\x00\x05I"
"""ReadyForQuery, outside of a transaction: what was asked for is committed."""


class Proxy:
    """Listens on a Unix socket, as a server in ``directory`` would, and passes on to another one.

    Attributes:
        requests: How often a client has sent something; as it waits for the answer each time, these are round trips.
        lost: How many answers were lost since `lose_answer` was called.
        struck: How many answers were lost in all, and connections cut.
        refusing: Whether connections are refused.
    """

    def __init__(self, directory, server):
        self.url = f"postgresql://postgres@/postgres?host={directory}"
        self.requests, self.lost, self.struck, self.refusing = 0, 0, 0, False
        self._server, self._to_lose = str(server), None
        self._ends, self._lock = [], threading.Lock()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(directory / ".s.PGSQL.5432"))
        self._listener.listen()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def lose_answer(self, number):
        """Cut the connection instead of telling of the end of a transaction: of the next one if ``number`` is 0."""
        self._to_lose, self.lost = number, 0

    def stop_losing(self):
        self._to_lose = None

    def cut(self):
        """Cut all connections."""
        with self._lock:
            ends, self._ends = self._ends, []
        self.struck += len(ends) // 2
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self):
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            try:
                if self.refusing:
                    raise OSError
                server.connect(self._server)
            except OSError:
                client.close()
                server.close()
                continue
            with self._lock:
                self._ends += [client, server]
            for target in (self._requests, self._answers):
                thread = threading.Thread(target=target, args=(client, server), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _requests(self, client, server):
        with contextlib.suppress(OSError):
            while data := client.recv(65_536):
                self.requests += 1
                server.sendall(data)
        _shut(client, server)

    def _answers(self, client, server):
        with contextlib.suppress(OSError):
            while data := server.recv(65_536):
                if data.endswith(_IDLE) and self._is_to_be_lost():
                    break
                client.sendall(data)
        _shut(client, server)
        client.close()
        server.close()

    def _is_to_be_lost(self):
        if self._to_lose is None:
            return False
        self._to_lose -= 1
        if self._to_lose >= 0:
            return False
        self._to_lose, self.lost, self.struck = None, self.lost + 1, self.struck + 1
        return True


def _shut(*ends):
    for end in ends:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
