"""The golden vectors of a bundle, replayed by one engine of this device.

``python -m edgekit.runtime.replay`` reads one line of JSON and answers with one::

    -> {"bundle": path, "artifact": id, "engine": name, "threads": n, "provider": name or null}
    <- {"version", "provider", "vectors": n or 0, "away": n or null, "unit", "images": n, "problem": "" or one line}

"away" is the largest difference (`edgekit.runtime._golden.replay`) in "unit"; "images" counts the encoded images that
were also decoded and compared, which needs Pillow. "problem" says which vector is too far away, and on which CPU.
Any other failure is answered with {"error": "one line"}.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Any

from edgekit.runtime import _answer
from edgekit.runtime.bundle import open_bundle
from edgekit.runtime.errors import RuntimeFault


def replay(bundle: str, artifact: str, engine: str, threads: int, provider: str | None) -> dict[str, Any]:
    """The answer; see the module.

    Raises:
        RuntimeFault: the bundle, the engine or the model cannot be used.
    """
    from edgekit.runtime import _golden, _load, _model, engine_menu
    from edgekit.runtime._model import Model

    module = engine_menu.engine(engine)
    version = module.version()
    opened = open_bundle(bundle, verify="hash")
    entry = opened.artifact(artifact, (module.FORMAT,))
    session = _load.open_session(opened, entry, module, threads, provider)
    with Model(opened, entry, session, {"engine": engine, "version": version, "threads": threads}) as model:
        vectors, images, away, problem = 0, 0, None, ""
        if "golden" in entry:
            try:
                vectors = len(_golden.outputs(opened, entry))
                away = _model.replay(model, opened, entry)
            except RuntimeFault as fault:
                problem = str(fault).removeprefix(f"{bundle}: ").removeprefix(f"{artifact}: ")
            if find_spec("PIL") and not problem:
                images = len(opened.manifest["golden"].get("images", ()))
        return {
            "version": version,
            "provider": session.provider,
            "vectors": vectors,
            "away": away,
            "unit": "of the largest output" if entry["output"]["dtype"].startswith("float") else "steps",
            "images": images if model.takes_images else 0,
            "problem": problem,
        }


if __name__ == "__main__":
    sys.exit(_answer.main(replay))
