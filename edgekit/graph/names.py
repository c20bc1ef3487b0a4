"""The torch layer in the name of an exported operator. Standard library only."""

from __future__ import annotations

import re


def layer(name: str) -> str:
    """Torch layer in an operator name of the form our exporters write, ``layer/Operator``; else the name itself."""
    match = re.fullmatch(r"([\w.]+)/[\w+]+(#\d+)?(_\w+)?", name)
    return match[1] if match else name
