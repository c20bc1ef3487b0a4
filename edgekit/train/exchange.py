"""Sums of a few numbers over the processes of a training on one machine, sent straight from one to the other.

Batch norms need such a sum at each layer, forward and back. Gloo's own passes from thread to thread, each of which has
to be woken, and takes longer than what a small network computes between two of them.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

HERE = "127.0.0.1"
CHUNK = 16 << 10
"""Bytes that one sends before it reads: what the system keeps for another process that is still sending, too."""
MOMENT = 1e-3
"""Seconds before one that waits goes to sleep: to be woken takes longer than most have to wait."""


class Exchange:
    """Connections to all other processes.

    Args:
        peers: by rank; the own one is missing.
        rank: the own one.
    """

    def __init__(self, peers: dict[int, socket.socket], rank: int) -> None:
        self._peers, self._rank = peers, rank

    def add(self, values: Tensor) -> None:
        """Sum values over all processes, in place; all have the same bits afterwards.

        Args:
            values: on the CPU; all processes give the same shape and type.

        Raises:
            ConnectionError: another process is gone.
            TimeoutError: another process does not answer.
        """
        own = bytearray(values.numpy().tobytes())
        found = {rank: bytearray(len(own)) for rank in self._peers}
        for start in range(0, len(own), CHUNK):
            part = slice(start, start + CHUNK)
            for peer in self._peers.values():
                peer.sendall(own[part])
            for rank, peer in self._peers.items():
                _receive(peer, memoryview(found[rank])[part])
        found[self._rank] = own
        parts = [torch.frombuffer(held, dtype=values.dtype) for _, held in sorted(found.items())]
        values.copy_(sum(parts[1:], parts[0]).view_as(values))


@contextmanager
def joined(store: Any, rank: int, size: int, timeout: float) -> Iterator[Exchange]:
    """Connect each process with each other.

    Args:
        store: where processes leave their ports; a `torch.distributed` store of this attempt alone.
        rank: of this process.
        size: number of processes.
        timeout: seconds that one may keep the others waiting.

    Raises:
        ConnectionError: another process is gone.
        TimeoutError: another process does not answer.
    """
    peers: dict[int, socket.socket] = {}
    with contextlib.ExitStack() as stack:
        with socket.create_server((HERE, 0), backlog=size) as server:
            server.settimeout(timeout)
            store.set(f"exchange/{rank}", str(server.getsockname()[1]))
            for other in range(rank):
                port = int(store.get(f"exchange/{other}"))
                peer = stack.enter_context(socket.create_connection((HERE, port), timeout))
                peer.sendall(struct.pack("<I", rank))
                peers[other] = peer
            while len(peers) < size - 1:
                peer = stack.enter_context(server.accept()[0])
                peer.settimeout(timeout)
                name = bytearray(4)
                _receive(peer, memoryview(name))
                peers[struct.unpack("<I", name)[0]] = peer
        for peer in peers.values():
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield Exchange(peers, rank)


def _receive(peer: socket.socket, into: memoryview) -> None:
    """Fill `into`: ask again and again for a moment, then sleep until something comes."""
    patience, until = peer.gettimeout(), time.perf_counter() + MOMENT
    peer.setblocking(False)
    try:
        while into:
            try:
                count = peer.recv_into(into)
            except BlockingIOError:
                if time.perf_counter() < until:
                    os.sched_yield()
                else:
                    peer.settimeout(patience)
                continue
            if not count:
                raise ConnectionError("connection closed by peer")
            into = into[count:]
    finally:
        peer.settimeout(patience)
