"""A phone that is a folder of this machine: ``adb`` is a script, and the phone's shell and tools are mksh and toybox
(Android's own) where they are installed.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from edgekit.reach.ways import adb

# What Android's own tools are; coreutils and /bin/sh, where they are not installed.
SHELL = shutil.which("mksh") or "/bin/sh"
TOOLS = ("cat", "chmod", "df", "ls", "mkdir", "mv", "nproc", "rm", "sha256sum", "tail", "touch", "uname", "wc")
FAKE_ADB = """#!/bin/sh
[ -z "$ADB_SAYS" ] || { echo "$ADB_SAYS" >&2; exit 1; }
if [ "$1" = -s ]; then
    [ "$2" = phone ] || { echo "error: device '$2' not found" >&2; exit 1; }
    shift 2
fi
there() { printf %s "$1" | sed "s#/data/local/tmp#$PHONE#g"; }
case "$1 $2" in
"shell -T")
    shift 2
    exec env -i PATH="$PHONE/bin" STYLE="$STYLE" SLEEP="$SLEEP" $PHONE_SHELL -c "$(there "$*")" ;;
"push "*)
    [ -z "$FULL" ] || { echo "adb: error: failed to copy '$2' to '$3': remote write failed: No space left on device" >&2
        exit 1; }
    exec cp "$2" "$(there "$3")" ;;
esac
echo "adb: unknown command $1" >&2
exit 1
"""


def connect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put ``adb`` on the path; returns the folder that is ``/data/local/tmp`` there."""
    folder = tmp_path / "phone"
    (folder / "bin").mkdir(parents=True)
    for name in TOOLS:
        (folder / "bin" / name).symlink_to(shutil.which("toybox") or str(shutil.which(name)))
    here = tmp_path / "here"
    here.mkdir()
    (here / "adb").write_text(FAKE_ADB)
    (here / "adb").chmod(0o755)
    monkeypatch.setenv("PATH", f"{here}{os.pathsep}{os.environ['PATH']}")
    for name, value in {"PHONE": str(folder), "PHONE_SHELL": SHELL}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(adb, "_programs", {})
    monkeypatch.setattr(adb, "_models", {})
    return folder
