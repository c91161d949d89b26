"""A proxy in front of a PostgreSQL server that counts round trips, loses and delays answers, and cuts connections."""

import contextlib
import itertools
import random
import socket
import threading

from workflow_core import StorageError

_IDLE = b"Z\x00\x00\x00\x05I"
"""ReadyForQuery, outside of a transaction: what was asked for is committed."""

_PROTOCOL = (3 << 16).to_bytes(4)
"""By which a StartupMessage begins, behind its length."""

_ANNOUNCEMENT = b"A"
"""The type of NotificationResponse, which a server sends by itself to a session that is idle."""


class Proxy:
    """Listens on a Unix socket, as a server in ``directory`` would, and passes on to another one.

    Attributes:
        requests: How often a client has sent something; as it waits for the answer each time, these are round trips.
        lost: How many answers were lost since `lose_answer` was called.
        struck: How many answers were lost in all, and connections cut.
        refusing: Whether connections are refused.
        delay: For how long, in seconds, everything is held back in each direction: from, and to.
        swallowing: Whether announcements (``NOTIFY``) are kept from those who listen.
        swallowed: How many were.
        deaf: Whether a session that wants to listen is cut off.
        listens: How often one has asked to listen.
        lost_of: How many answers of each kind were lost, see `lose_answers_of`.
        drops_options: Whether new sessions are begun without the ``options`` that were asked for, as poolers do it.
    """

    def __init__(self, directory, server):
        self.url = f"postgresql://postgres@/postgres?host={directory}"
        self.requests, self.lost, self.struck, self.refusing = 0, 0, 0, False
        self.delay, self.swallowing, self.swallowed, self.deaf, self.listens = None, False, 0, False, 0
        self.lost_of, self._every, self._seen, self._when_lost = {}, 0, {}, lambda: None
        self.drops_options = False
        self._server, self._to_lose = str(server), None
        self._ends, self._lock = [], threading.Lock()
        self._over = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(directory / ".s.PGSQL.5432"))
        self._listener.listen()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def lose_answer(self, number):
        """Cut the connection instead of telling of the end of a transaction: of the next one if ``number`` is 0."""
        self._to_lose, self.lost = number, 0

    def lose_answers_of(self, *kinds, every, when_lost=lambda: None):
        """Lose answers of statements with certain texts: of the first one of each, and of one in ``every`` after it.

        Args:
            kinds: The texts.
            every: How often; 0 loses the first one alone.
            when_lost: Called when the server has committed, before the connection is cut.
        """
        self.lost_of = dict.fromkeys(kinds, 0)
        self._seen = {kind: itertools.count() for kind in kinds}
        self._every, self._when_lost = every, when_lost

    def stop_losing(self):
        self._to_lose, self._seen = None, {}

    def cut(self):
        """Cut all connections."""
        with self._lock:
            ends, self._ends = self._ends, []
        self.struck += len(ends) // 2
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self):
        self._over.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join()  # first: what it accepts after the cut would never end
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
            session = _Session()
            for target in (self._requests, self._answers):
                thread = threading.Thread(target=target, args=(client, server, session), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _requests(self, client, server, session):
        with contextlib.suppress(OSError):
            while data := client.recv(65_536):
                if self.drops_options and not session.has_begun:
                    data = _without_options(data)
                self.requests += 1
                self._hold_back()
                if b"LISTEN " in data:
                    self.listens += 1
                    if self.deaf:
                        break
                for kind in self._asked_for(session, data):
                    if self._is_next(kind):
                        session.lost_kind = kind
                server.sendall(data)
        _shut(client, server)

    def _answers(self, client, server, session):
        with contextlib.suppress(OSError):
            while data := server.recv(65_536):
                self._hold_back()
                if self.swallowing and data.startswith(_ANNOUNCEMENT):
                    self.swallowed += 1
                    continue
                if data.endswith(_IDLE) and (self._loses_kind(session) or self._is_to_be_lost()):
                    break
                client.sendall(data)
        _shut(client, server)
        client.close()
        server.close()

    def _hold_back(self):
        if self.delay is not None:
            self._over.wait(random.uniform(*self.delay))

    def _asked_for(self, session, data):
        """Return the kinds of answers to lose that a request will have."""
        texts = session.texts_of(data)
        return [kind for kind in self._seen if any(kind.encode() in text for text in texts)]

    def _is_next(self, kind):
        with self._lock:
            number = next(self._seen[kind])
        return number == 0 if self._every == 0 else number % self._every == 0

    def _loses_kind(self, session):
        kind, session.lost_kind = session.lost_kind, None
        if kind is None:
            return False
        with self._lock:
            self.lost_of[kind] += 1
            self.struck += 1
        self._when_lost()
        return True

    def _is_to_be_lost(self):
        if self._to_lose is None:
            return False
        self._to_lose -= 1
        if self._to_lose >= 0:
            return False
        self._to_lose, self.lost, self.struck = None, self.lost + 1, self.struck + 1
        return True


class _Session:
    """What is known of one connection.

    Attributes:
        statements: The texts of prepared statements, by name.
        has_begun: Whether its first message has come.
        lost_kind: Of which kind the answer is that is lost when it comes; ``None`` for none.
    """

    def __init__(self):
        self.statements = {}
        self.lost_kind = None
        self.has_begun = False
        self._rest = b""

    def texts_of(self, data):
        """Return the texts of the statements that are run by what a client sends, prepared ones too."""
        data, texts = self._rest + data, []
        if not self.has_begun:  # the first message has no type
            self.has_begun, data = True, data[int.from_bytes(data[:4]) :]
        while len(data) >= 5 and (end := 1 + int.from_bytes(data[1:5])) <= len(data):
            kind, body = data[:1], data[5:end]
            if kind == b"Q":
                texts.append(body)
            elif kind == b"P":
                name, text, _ = body.split(b"\0", 2)
                self.statements[name] = text
            elif kind == b"B":
                _, name, _ = body.split(b"\0", 2)
                texts.append(self.statements.get(name, b""))
            data = data[end:]
        self._rest = data
        return texts


async def lose_each_answer(proxy, make_store, *, was_used, prepare, call, look):
    """Do something to a database, and lose one of its answers after the other: each time it is as if none was lost.

    Args:
        proxy: The proxy.
        make_store: Opens a store, of the URL that it is given.
        was_used: Whether the store has a connection already that it has used.
        prepare: Makes what has to be there before, in a store that is given to it and loses nothing.
        call: What is done, in another store; it is called again if it says that the database was away.
        look: Returns what is compared, from the result of the call and the first store.
    """
    reasons = set()

    async def one_loss(number):
        direct = make_store()
        await prepare(direct)
        through = make_store(proxy.url)
        if was_used:
            await through.open()
        proxy.lose_answer(number)
        for _ in range(3):
            try:
                result = await call(through)
            except StorageError as error:
                reasons.add((error.reason, error.is_transient))
            else:
                break
        proxy.stop_losing()
        found = await look(result, direct)
        through.close()
        direct.close()
        return proxy.lost, found

    _, expected = await one_loss(1_000)
    for number in itertools.count():
        lost, found = await one_loss(number)
        assert found == expected, f"answer {number}"
        if not lost:
            break
    assert number > 0
    assert reasons <= {("unavailable", True)}


def _without_options(startup):
    """Return a StartupMessage without what it has for ``options``; any other first message as it is."""
    if startup[4:8] != _PROTOCOL:
        return startup
    fields = startup[8:].rstrip(b"\0").split(b"\0")
    kept = [
        name + b"\0" + value + b"\0"
        for name, value in zip(fields[::2], fields[1::2], strict=True)
        if name != b"options"
    ]
    body = startup[4:8] + b"".join(kept) + b"\0"
    return (len(body) + 4).to_bytes(4) + body


def _shut(*ends):
    for end in ends:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
