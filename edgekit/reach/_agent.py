"""The program that runs on a remote device: its source is sent as ``python3 -c SOURCE mode ...``.

Standard library only, in a syntax that even Python 2.7 can parse, so that an old Python can report that it is too old.

::

    hello                   -> {"python": "3.11.2"}, then stays until its stdin ends
    receive SHA256 SUFFIX BYTES
                            -> {"have": n}; takes BYTES - n bytes from stdin -> {"path": "..."}
    run ZIP -m MODULE ...   runs the module with ZIP first on the path; so does ``-c CODE ...``
    clean                   removes what was received -> {"removed": n}

Every error is answered with {"error": "one line"} and exit status 1.
"""

import json
import os
import sys

OLDEST = (3, 9)
KEPT = 64
"""Files to keep; beyond that, the least recently used are removed."""
GRACE = 1.0
"""Seconds that a program has to end by itself after its connection is gone."""


def _say(**fields):
    # type: (**object) -> None
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def _folder():
    # type: () -> str
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(cache, "edgekit", "files")


def _receive(digest, suffix, size):
    # type: (str, str, str) -> None
    """Store a file under the hash of its contents; a partial one is completed."""
    import fcntl
    import hashlib

    folder, total = _folder(), int(size)
    os.makedirs(folder, exist_ok=True)
    final = os.path.join(folder, digest + suffix)
    if os.path.exists(final) and os.path.getsize(final) == total:
        os.utime(final)
        _say(have=total)
        _say(path=final)
        return
    with open(final + ".part", "ab+") as part:
        fcntl.flock(part, fcntl.LOCK_EX)  # of two transfers at once, the second finds what the first received
        part.seek(0)
        hasher, seen = hashlib.sha256(), 0
        for block in iter(lambda: part.read(1 << 20), b""):
            hasher.update(block)
            seen += len(block)
        if seen > total:
            part.truncate(0)
            hasher, seen = hashlib.sha256(), 0
        _say(have=seen)
        while seen < total:
            block = os.read(0, min(total - seen, 1 << 20))
            if not block:
                part.flush()
                raise OSError("the transfer broke off after %d of %d bytes" % (seen, total))
            part.write(block)
            hasher.update(block)
            seen += len(block)
        part.flush()
        os.fsync(part.fileno())
        if hasher.hexdigest() != digest:
            os.remove(part.name)
            raise OSError("the SHA-256 of the received file differs from that of the sent file")
        os.rename(part.name, final)
    paths = [os.path.join(folder, name) for name in os.listdir(folder)]
    for path in sorted(paths, key=os.path.getmtime)[:-KEPT]:
        os.remove(path)
    _say(path=final)


def _run(path, kind, what, *rest):
    # type: (str, str, str, *str) -> None
    """Run like ``python -m`` or ``python -c``, but end when the host disconnects."""
    import runpy
    import threading

    os.utime(path)  # recently used: not the first to be removed
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # of ONNX Runtime: an extra thread would disturb measurements
    sys.path[0] = path  # in place of the working directory: a numpy.py in there is not NumPy
    out = os.dup(1)  # the program may replace descriptor 1
    threading.Thread(target=_watch, args=(out,), daemon=True).start()
    sys.argv = [what if kind == "-m" else "-c"] + list(rest)
    if kind == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})


def _watch(out):
    # type: (int) -> None
    """End this process when the host has disconnected, even if native code hangs."""
    import select
    import time

    poll = select.poll()
    poll.register(out, 0)  # only errors and hang-ups: the reader is gone
    poll.poll()
    time.sleep(GRACE)
    os._exit(1)


def _clean():
    # type: () -> None
    import shutil

    count = len(os.listdir(_folder())) if os.path.isdir(_folder()) else 0
    shutil.rmtree(_folder(), ignore_errors=True)
    _say(removed=count)


def _main(mode, *rest):
    # type: (str, *str) -> int
    if sys.version_info < OLDEST:
        version = ".".join(str(part) for part in sys.version_info[:3])
        _say(error="%s is Python %s; %d.%d or later is needed" % ((sys.executable, version) + OLDEST))
        return 1
    if mode == "run":
        _run(*rest)
        return 0
    try:
        if mode == "hello":
            _say(python=".".join(str(part) for part in sys.version_info[:3]))
            sys.stdin.read()
        elif mode == "receive":
            _receive(*rest)
        elif mode == "clean":
            _clean()
    except OSError as error:
        where = ": " + error.filename if isinstance(error.filename, str) else ""
        _say(error="%s%s" % (error.strerror or error, where))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
