"""How latency is measured: one protocol for all devices, printed in each report."""

from __future__ import annotations

VERSION = 3
"""Increased when a figure changes its meaning: results of another version are measured again."""

STEPS: tuple[tuple[str, str], ...] = (
    (
        "One process for each row",
        "Each combination of artifact, engine, thread count and batch runs in its own process, and the machine is "
        "locked against a second measurement. The input is one fixed random tensor.",
    ),
    (
        "Cold start",
        "Loading the file is timed first (without importing the engine), then the first inference. The report "
        "says whether the file was in the page cache; as files are hashed or sent just before, it usually is.",
    ),
    (
        "Warm-up",
        "Uncounted inferences run until their times are steady: no trend and no change of level that is both "
        "significant (Mann-Kendall, Mann-Whitney, 5 %) and larger than 1 % over a window of at least 40 inferences and "
        "0.1 s (or half of the time for warm-up, if that is shorter). Warm-up takes no longer than the measurement; "
        "a row whose times were not steady by then says so.",
    ),
    (
        "Interleaved rounds",
        "The time of each row (`seconds`, the time budget) is cut into rounds. In each round all rows take turns in "
        "a different seeded order, so that drift of the machine affects all of them alike; a few uncounted "
        "inferences (`warmup`) come before each turn. A single row rests after each round for as long as the round "
        "took, since disturbances last. Single inferences are timed, with garbage collection off.",
    ),
    (
        "Outliers",
        "No sample is ever removed. The report states the share of samples that are more than 3 scaled median absolute "
        "deviations from the median.",
    ),
    (
        "Figures",
        "p50, p90 and p99 interpolate between samples. Their 95 % intervals come from a two-stage bootstrap over "
        "rounds and over blocks of neighbouring samples within them, with Student's t for few rounds, widened "
        "according to the correlation of neighbouring rounds. Two rows are called different only if the interval of "
        "their ratio excludes 1. The intervals do not cover variation between days; they cover variation between "
        "processes only with `fresh = true`, which starts a new process for each round.",
    ),
    (
        "Too uncertain to tell",
        "Where it is uncertain which file is the fastest, the rows in question get further rounds, up to three times "
        "their `seconds` in all. A row is uncertain if the interval of the ratio of its p50 to the fastest one "
        "includes 1 and a ratio beyond 1.2. All samples count.",
    ),
    (
        "By benchmark_model",
        "On a phone without Python, TFLite's benchmark_model times .tflite files. It prints no single times, so each "
        "round has three runs of it, each a process that loads and warms up, and each run gives one sample: its "
        "median, or its mean if it prints no median or one below 0.1 ms (whole microseconds). p50 and its interval "
        "are over these runs, so they cover variation between processes; p90, p99 and whether times were steady are "
        "unknown.",
    ),
    (
        "By executor_runner",
        "In the same way ExecuTorch's executor_runner times .pte files there, on ones: the sample is the median of a "
        "run's inferences after the warm-up, or, by versions that do not print each of them, the mean of all, warm-up "
        "included. It has no clock: how many fill the seconds is worked out from earlier runs. Its memory is unknown, "
        "and the provider is what the file was exported for.",
    ),
    (
        "End to end",
        "The golden images of the bundle, encoded, are decoded, preprocessed, inferred and postprocessed by the "
        "runtime that ships. Whole predictions are timed; each step is timed in separate predictions.",
    ),
    (
        "Memory",
        "The peak resident set of the process by the end of the inference timing, and how much of it loading the model "
        "and the first inference added.",
    ),
    (
        "Energy",
        "If there is a counter (RAPL, INA sensor, Jetson rail): its reading over a separate window, divided by the "
        "number of inferences in it; idle power and everything else that runs are included. If there is none, energy "
        "is not measured, and the report says why.",
    ),
    (
        "Sustained load",
        "If asked for, each row then runs alone and continuously. Reported for each minute: p50, p90, the hottest zone "
        "at its end, the mean clock, and whether the machine throttled.",
    ),
    (
        "Conditions",
        "The report states the governor, the temperature before the first inference, the highest load average and, on "
        "Linux, the share of time in which a process waited for a core and the share of CPU time that the host of a "
        "virtual machine took. Runs that differ in engine version, threads, governor or machine are compared with a "
        "warning.",
    ),
)


def markdown() -> str:
    """The protocol as a Markdown list."""
    return "\n".join(f"- **{title}.** {text}" for title, text in STEPS)
