"""How latency is measured: the one protocol of every device, as each report states it."""

from __future__ import annotations

VERSION = 3
"""Rises when a figure changes its meaning: results of another version are measured again."""

STEPS: tuple[tuple[str, str], ...] = (
    (
        "One process for each row",
        "Each artifact, engine, number of threads and batch has a process of its own, and the machine is locked "
        "against a second measurement. The input is one fixed random tensor.",
    ),
    (
        "Cold start",
        "The first thing timed is loading the file (the engine's import left out), then the first inference. The "
        "report says whether the file was in the page cache; as files are hashed or sent just before, it mostly is.",
    ),
    (
        "Warm-up",
        "Inferences that do not count go on until their times are steady: no trend and no change of level that is both "
        "significant (Mann-Kendall, Mann-Whitney, 5 %) and larger than 1 % over a window of at least 40 inferences and "
        "0.1 s (shorter where half of the time for warm-up is). Warm-up takes at most as long as is then measured; "
        "a row whose times were not steady by then says so.",
    ),
    (
        "Interleaved rounds",
        "The time of each row (`seconds`, the time budget) is cut into rounds. In each round all rows take turns in "
        "another seeded order, so that drift of the machine hits all of them alike; a few inferences that do not count "
        "(`warmup`) come before each turn. Where one row is alone there is a rest as long as each of its rounds, since "
        "what disturbs a machine lasts. Single inferences are timed, with garbage collection off.",
    ),
    (
        "Outliers",
        "No sample is ever removed. The share further than 3 scaled median absolute deviations from the median is "
        "stated.",
    ),
    (
        "Figures",
        "p50, p90 and p99 interpolate between samples. Their 95 % intervals come from a two-stage bootstrap over "
        "rounds and over blocks of neighbouring samples within them, with Student's t for so few rounds, widened as "
        "far as neighbouring rounds resemble each other. Two rows are called different only where the interval of "
        "their ratio leaves 1 out. What another day changes is not in the intervals, and what another process changes "
        "only with `fresh = true`, which has a new process for each round.",
    ),
    (
        "By benchmark_model",
        "On a phone without Python, TFLite's benchmark_model times .tflite files. It tells no single times, so each "
        "round has three runs of it, each a process that loads and warms up, and each run gives one sample: its "
        "median, or where it prints none, or one below 0.1 ms (in whole microseconds), its mean. p50 and its interval "
        "are of these runs; p90, p99 and whether times were steady are not known. What a new process changes is in "
        "them.",
    ),
    (
        "End to end",
        "The golden images of the bundle, encoded, are decoded, preprocessed, inferred and postprocessed by the "
        "runtime that ships; whole predictions are timed, and each step in predictions of its own.",
    ),
    (
        "Memory",
        "The largest resident set of the process until inference alone was timed, and what loading the model and the "
        "first inference have added to it.",
    ),
    (
        "Energy",
        "Where there is a counter (RAPL, INA sensor, Jetson rail), what it counts in a window of its own, over the "
        "number of inferences in it; idle power and whatever else runs are included. Elsewhere it is not measured, and "
        "the report says why.",
    ),
    (
        "Sustained load",
        "Where asked for, each row then runs alone without a break. Told for each minute: p50, p90, the hottest zone "
        "at its end, the mean clock, and whether the machine has throttled.",
    ),
    (
        "Conditions",
        "Governor, temperature before the first inference and the highest load average are stated. Runs that differ "
        "in engine version, threads, governor or machine are compared with a warning.",
    ),
)


def markdown() -> str:
    """The protocol as a list."""
    return "\n".join(f"- **{title}.** {text}" for title, text in STEPS)
