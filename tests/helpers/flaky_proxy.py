"""A proxy before a server, which loses requests, answers, or everything, as a bad network does."""

import contextlib
import random
import socket
import threading

METHODS = (b"GET ", b"POST ", b"PUT ", b"PATCH ", b"DELETE ", b"HEAD ")


class FlakyProxy:
    """Passes HTTP on from `port` to the server's, but drops some requests before, and some answers after they are made.

    `drop` and `swallow` are how often, as fractions of the requests; `dropped` and `swallowed` count them.
    """

    def __init__(self, server: int, drop: float, swallow: float) -> None:
        self.server, self.drop, self.swallow = server, drop, swallow
        self.dropped = self.swallowed = 0
        self._choice = random.Random(server)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Accept no more."""
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self.server)) as server:
            threading.Thread(target=self._answer, args=(server, client), daemon=True).start()
            with contextlib.suppress(OSError):
                while sent := client.recv(65536):
                    if sent.startswith(METHODS):
                        chance = self._choice.random()
                        if chance < self.drop:
                            self.dropped += 1
                            return
                        if chance < self.drop + self.swallow:
                            self.swallowed += 1
                            self._lose_answer(client, server, sent)
                            return
                    server.sendall(sent)

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while answer := server.recv(65536):
                client.sendall(answer)

    def _lose_answer(self, client: socket.socket, server: socket.socket, sent: bytes) -> None:
        """Have the server do all of what is asked, and cut the client off before it hears of it."""
        with socket.create_connection(("127.0.0.1", self.server)) as other:
            other.sendall(sent)
            other.settimeout(1)
            client.settimeout(0.2)
            with contextlib.suppress(OSError):  # until the request is whole
                while more := client.recv(65536):
                    other.sendall(more)
            with contextlib.suppress(OSError):
                other.recv(65536)
