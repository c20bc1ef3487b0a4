"""How latency is measured: one protocol for all devices, printed in each report."""

from __future__ import annotations

VERSION = 3
"""Increased when a figure changes its meaning; results of other versions are measured again."""

STEPS: tuple[tuple[str, str], ...] = (
    (
        "One process for each row",
        "Each combination of artifact, engine, thread count and batch runs in its own process, and the machine is "
        "locked against a second measurement. The input is one fixed random tensor.",
    ),
    (
        "Cold start",
        "First the loading of the file is timed (without importing the engine), then the first inference. The report "
        "says whether the file was in the page cache; it usually is, as files are hashed or sent just before.",
    ),
    (
        "Warm-up",
        "Inferences run uncounted until their times are steady: no trend or change of level that is both significant "
        "(Mann-Kendall, Mann-Whitney, 5 %) and larger than 1 %, over a window of at least 40 inferences and 0.1 s (or "
        "half of the warm-up time, if that is shorter). Warm-up takes at most as long as the measurement that follows; "
        "a row whose times were not steady by then says so.",
    ),
    (
        "Interleaved rounds",
        "The time budget of each row (`seconds`) is split into rounds. In each round all rows take turns in a new "
        "seeded order, so that drift of the machine affects all of them alike; a few uncounted inferences (`warmup`) "
        "precede each turn. A row that is measured alone rests between rounds for as long as a round takes, because "
        "disturbances of a machine last. Inferences are timed one by one, with garbage collection off.",
    ),
    (
        "Outliers",
        "No sample is ever removed. The report states the share of samples that are more than 3 scaled median absolute "
        "deviations from the median.",
    ),
    (
        "Figures",
        "p50, p90 and p99 interpolate between samples. Their 95 % confidence intervals come from a two-stage bootstrap "
        "over rounds and over blocks of neighbouring samples within them, with Student's t because rounds are few, "
        "widened by the correlation of neighbouring rounds. Two rows are called different only if the interval of "
        "their ratio excludes 1. The intervals do not include variation between days, and include variation between "
        "processes only with `fresh = true`, which starts a new process for each round.",
    ),
    (
        "By benchmark_model",
        "On a phone without Python, TFLite's benchmark_model times .tflite files. It does not print single times, so "
        "each round runs it three times, each time as a new process that loads and warms up. Each run gives one "
        "sample: its median, or its mean if the median is not printed or is below 0.1 ms (it is printed in whole "
        "microseconds). p50 and its interval are those of the runs, and include variation between processes; p90, p99 "
        "and whether times were steady are unknown.",
    ),
    (
        "End to end",
        "The runtime that ships decodes the golden images of the bundle, preprocesses them, runs inference and "
        "postprocesses the outputs. Whole predictions are timed; single steps are timed in separate predictions.",
    ),
    (
        "Memory",
        "The peak resident set of the process up to the end of the inference timing, and how much loading the model "
        "and the first inference added to it.",
    ),
    (
        "Energy",
        "If the device has a counter (RAPL, INA sensor, Jetson rail): the energy counted in a separate window, divided "
        "by the number of inferences in it; idle power and all other processes are included. If not, energy is not "
        "measured, and the report says why.",
    ),
    (
        "Sustained load",
        "If requested, each row then runs alone and continuously. Reported for each minute: p50, p90, the temperature "
        "of the hottest zone at its end, the mean clock rate, and whether the machine throttled.",
    ),
    (
        "Conditions",
        "The report states the governor, the temperature before the first inference and the highest load average. Runs "
        "that differ in engine version, threads, governor or machine are compared with a warning.",
    ),
)


def markdown() -> str:
    """The protocol as a Markdown list."""
    return "\n".join(f"- **{title}.** {text}" for title, text in STEPS)
