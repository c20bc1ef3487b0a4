"""Sums over processes, straight from one to the other: several threads with real connections stand for processes."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.errors import InputError
from edgekit.train import exchange


def together(folder: Path, size: int, work: Callable[[int, exchange.Exchange], Any], timeout: float = 60) -> list[Any]:
    """What each rank's work returns, by rank."""
    store = dist.FileStore(str(folder / "store"), size)  # type: ignore[attr-defined]

    def one(rank: int) -> Any:
        with exchange.joined(store, rank, size, timeout) as sums:
            return work(rank, sums)

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(one, rank) for rank in range(size)]
        return [future.result() for future in futures]


@pytest.mark.parametrize("length", [1, 3, exchange.PART // 8, exchange.PART // 8 + 1, 200_000])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_sums_are_numpys_and_all_have_the_same_bits(tmp_path: Path, size: int, length: int) -> None:
    parts = np.random.default_rng(length).normal(size=(size, 1, length))

    def work(rank: int, sums: exchange.Exchange) -> torch.Tensor:
        for _ in range(3):
            values = torch.from_numpy(parts[rank].copy())
            sums.add(values)
        return values

    found = together(tmp_path, size, work)
    np.testing.assert_allclose(found[0].numpy(), parts.sum(0), rtol=1e-12, atol=1e-12)
    assert all(torch.equal(each, found[0]) for each in found)


def test_the_shared_memory_has_no_name_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "SHARED_MEMORY", str(tmp_path))

    def work(rank: int, sums: exchange.Exchange) -> list[Path]:
        sums.add(torch.ones(4))
        return list(tmp_path.glob("edgekit-*"))

    assert together(tmp_path, 2, work) == [[], []]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_no_room_to_share_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "SHARED_MEMORY", str(tmp_path))
    full = tmp_path / "full"
    full.touch()
    monkeypatch.setattr(tempfile, "mkstemp", lambda **_: (os.open("/dev/full", os.O_WRONLY), str(full)))
    with pytest.raises(InputError, match=r"has no room for 0\.5 MB that .* \(No space left on device\)"):
        exchange._new_file(1 << 19)
    assert not full.exists()


def test_a_process_that_is_gone_is_told(tmp_path: Path) -> None:
    def work(rank: int, sums: exchange.Exchange) -> None:
        if rank == 0:
            with pytest.raises(ConnectionError, match="by peer"):
                sums.add(torch.ones(4))

    together(tmp_path, 2, work)


def test_one_that_does_not_answer_is_told(tmp_path: Path) -> None:
    def work(rank: int, sums: exchange.Exchange) -> None:
        if rank == 0:
            with pytest.raises(TimeoutError, match="timed out"):
                sums.add(torch.ones(4))
        else:
            # It keeps its connections until the first one has given up.
            assert sums._peers[0].recv(1 << 20)
            sums._peers[0].settimeout(60)
            assert sums._peers[0].recv(1) == b""

    together(tmp_path, 2, work, timeout=0.5)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=5000), min_size=1, max_size=5))
def test_what_comes_in_pieces_is_put_together(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    ours, theirs = socket.socketpair()
    with ours, theirs, ThreadPoolExecutor(1) as pool:
        ours.settimeout(10)
        held = bytearray(len(whole))
        waiting = pool.submit(exchange._receive, ours, memoryview(held))
        for piece in pieces:
            theirs.sendall(piece)
        waiting.result()
    assert held == whole
    assert ours.gettimeout() == 10
