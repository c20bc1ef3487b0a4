"""Sums over the processes of a training on one machine, in memory that all of them see.

Batch norms need a sum of a few numbers at each layer, forward and back, and each step the sum of all gradients. Gloo's
own pass through sockets and from thread to thread, each of which has to be woken and takes a core from the training.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgekit.errors import InputError

HERE = "127.0.0.1"
PART = 256 << 10
"""Bytes that each process lays out at once: they stay in the caches."""
SHARED_MEMORY = "/dev/shm"  # noqa: S108
MOMENT = 1e-3
"""Seconds before one that waits goes to sleep: to be woken takes longer than most have to wait."""


class Exchange:
    """Connections to all other processes, and memory shared with them.

    Args:
        peers: by rank; the own one is missing.
        rank: the own one.
        table: uint8 [2, processes, PART], the same memory for all: they lay their numbers out in one half of it while
            slower ones still read the other.
    """

    def __init__(self, peers: dict[int, socket.socket], rank: int, table: Tensor) -> None:
        self._peers, self._rank = peers, rank
        self._table = table
        self._half = 0

    def add(self, values: Tensor) -> None:
        """Sum values over all processes, in place; all have the same bits afterwards.

        Args:
            values: on the CPU, contiguous; all processes give the same shape and type.

        Raises:
            ConnectionError: another process is gone.
            TimeoutError: another process does not answer.
        """
        for part in torch.split(values.view(-1), PART // values.element_size()):
            laid = self._table[self._half, :, : part.nbytes].view(part.dtype)
            self._half = 1 - self._half
            laid[self._rank].copy_(part)
            self._meet()
            part.copy_(laid[0])
            for other in laid[1:]:
                part += other

    def _meet(self) -> None:
        """Wait until all processes have come here; what one wrote before, all others see afterwards."""
        for peer in self._peers.values():
            peer.sendall(b"!")
        for peer in self._peers.values():
            _receive(peer, memoryview(bytearray(1)))


@contextmanager
def joined(store: Any, rank: int, size: int, timeout: float) -> Iterator[Exchange]:
    """Connect each process with each other.

    Args:
        store: where processes leave their addresses; a `torch.distributed` store of this attempt alone.
        rank: of this process.
        size: number of processes.
        timeout: seconds that one may keep the others waiting.

    Raises:
        ConnectionError: another process is gone.
        TimeoutError: another process does not answer.
        InputError: there is no room for the memory that they share.
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
        if rank == 0:
            store.set("exchange/table", str(_new_file(2 * size * PART)))
        file = Path(store.get("exchange/table").decode())
        try:
            with file.open("r+b") as opened:
                table = torch.frombuffer(mmap.mmap(opened.fileno(), 0), dtype=torch.uint8).view(2, size, PART)
            made = Exchange(peers, rank, table)
            made._meet()
        finally:
            if rank == 0:  # all have it now, and it ends with the last of them
                file.unlink()
        yield made


def _new_file(length: int) -> Path:
    """A file of zeros, in memory where the system offers that.

    Raises:
        InputError: there is no room for it.
    """
    folder = Path(SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else tempfile.gettempdir())
    descriptor, name = tempfile.mkstemp(prefix="edgekit-", dir=folder)
    try:
        with open(descriptor, "wb") as file:
            file.write(bytes(length))
    except OSError as error:
        Path(name).unlink()
        room = f"{length / 1e6:.1f} MB that the processes share"
        raise InputError(f"train: {folder} has no room for {room} ({error.strerror}): make some") from error
    return Path(name)


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
