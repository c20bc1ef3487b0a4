"""Which file of a trial is weighed and timed."""

from edgekit.errors import InputError, Shortfall
from edgekit.measurements import Timing
from edgekit.pipeline.results import Results
from edgekit.tune.port import Asked
from edgekit.types import Artifact


def check(asked: Asked, objective: str) -> None:
    """Refuse a recipe that makes no files.

    Raises:
        InputError: it has no [export] section.
    """
    if asked.recipe.export is None:
        raise InputError(f'tune.objective: "{objective}" is that of a file, but the recipe has no [export] section')


def timing(asked: Asked, results: Results, device: str) -> Timing:
    """The fastest file and engine on a device, of the precision that ships.

    Raises:
        Shortfall: none was timed there.
    """
    files = {artifact.id for artifact in results.artifacts if artifact.precision == asked.precision}
    rows = [row for row in results.latency if row.device == device and row.artifact in files and not row.reference]
    if not rows:
        raise Shortfall(f"tune: no {asked.precision} file was timed on {device}")
    return min(rows, key=lambda row: row.p50_ms)


def artifact(asked: Asked, results: Results) -> Artifact:
    """The file that is fastest on the first device, or, if nothing is timed, the smallest.

    Raises:
        Shortfall: there is none.
    """
    files = {each.id: each for each in results.artifacts if each.precision == asked.precision}
    if not files:
        raise Shortfall(f"tune: no {asked.precision} file was written")
    if "latency" in asked.objectives:
        return files[timing(asked, results, next(iter(asked.devices))).artifact]
    return min(files.values(), key=lambda each: each.bytes)
