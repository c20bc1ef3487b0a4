"""Every expectation is worked out by hand from the rule in the module's docstring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.device.file import LimitsSection
from edgekit.measurements import Kind, Machine, Steps, Timing, Verdict
from edgekit.scores import Accuracy
from edgekit.types import Artifact
from edgekit.verdict import noise as noise_rule
from edgekit.verdict.rule import decide, uncertain
from tests.report_sample import ARTIFACTS, accuracy, report, timing

TORCH = accuracy("torch-fp32", "torch", 0.90)
SCORES = (
    TORCH,
    accuracy("onnx-fp32", "onnxruntime", 0.90),
    accuracy("onnx-int8", "onnxruntime", 0.897),
    accuracy("tflite-fp32", "litert", 0.90),
    accuracy("tflite-int8", "litert", 0.897),
)


def choose(
    timings: Sequence[Timing],
    scores: Sequence[Accuracy] = SCORES,
    max_drop: float | None = 1.0,
    artifacts: Sequence[Artifact] = ARTIFACTS,
    **limits: float,
) -> Verdict:
    return decide("host", artifacts, scores, timings, LimitsSection.model_validate(limits), max_drop)


def test_decide_ships_int8_when_it_is_faster_than_every_float() -> None:
    found = choose([timing("onnx-fp32", "onnxruntime", 2.772), timing("tflite-int8", "litert", 1.32)])
    assert (found.artifact, found.engine, found.threads, found.kind) == ("tflite-int8", "litert", 1, "measured")
    assert found.reason == (
        "tflite-int8 on litert, 1 thread: p50 1.32 ms, 2.1x faster than the fastest float file "
        "(onnx-fp32, onnxruntime), loses 0.3 points of top-1 (1 allowed)"
    )
    assert found.speedup == pytest.approx(2.1)
    assert found.size_ratio == pytest.approx(8_934_112 / 2_412_640)
    assert found.top1_drop == pytest.approx(0.3)
    assert found.baseline == "onnx-fp32 on onnxruntime, 1 thread"


def test_decide_ships_float_when_int8_is_slower() -> None:
    found = choose([timing("onnx-fp32", "onnxruntime", 1.60), timing("onnx-int8", "onnxruntime", 2.00)])
    assert (found.artifact, found.engine) == ("onnx-fp32", "onnxruntime")
    assert (found.baseline, found.speedup, found.size_ratio) == (None, None, None)
    assert "no slower than the fastest int8 file (onnx-int8, onnxruntime: 2.00 ms)" in found.reason


HALF = replace(ARTIFACTS[0], id="onnx-fp16", precision="fp16", bytes=4_500_000)


def test_decide_ships_fp16_where_int8_beats_fp32_but_not_fp16() -> None:
    times = [
        timing("onnx-fp32", "onnxruntime", 3.0),
        timing("onnx-fp16", "onnxruntime", 1.5),
        timing("onnx-int8", "onnxruntime", 2.0),
    ]
    found = choose(times, (*SCORES, accuracy("onnx-fp16", "onnxruntime", 0.90)), artifacts=(*ARTIFACTS, HALF))
    assert (found.artifact, found.baseline, found.speedup) == ("onnx-fp16", None, None)


def test_decide_compares_int8_with_the_fastest_float_that_holds_max_drop() -> None:
    """fp16 that loses 3 points is no yardstick: int8 has to beat fp32 only."""
    times = [
        timing("onnx-fp32", "onnxruntime", 3.0),
        timing("onnx-fp16", "onnxruntime", 1.5),
        timing("onnx-int8", "onnxruntime", 2.0),
    ]
    found = choose(times, (*SCORES, accuracy("onnx-fp16", "onnxruntime", 0.87)), artifacts=(*ARTIFACTS, HALF))
    assert (found.artifact, found.baseline) == ("onnx-int8", "onnx-fp32 on onnxruntime, 1 thread")
    assert found.speedup == pytest.approx(1.5)


def test_decide_ships_float_when_int8_is_slower_by_less_than_noise() -> None:
    """The tie rule prefers the smaller file, but never one that is slower than float."""
    assert (
        choose([timing("tflite-fp32", "litert", 1.00), timing("tflite-int8", "litert", 1.01)]).artifact == "tflite-fp32"
    )


def test_decide_compares_engines_and_threads() -> None:
    """int8 beats the float of its own engine, not that of the other one on two threads."""
    found = choose(
        [
            timing("tflite-fp32", "litert", 3.0),
            timing("tflite-int8", "litert", 2.0),
            timing("onnx-fp32", "onnxruntime", 2.5),
            timing("onnx-fp32", "onnxruntime", 1.8, threads=2),
        ]
    )
    assert (found.artifact, found.engine, found.threads) == ("onnx-fp32", "onnxruntime", 2)


def test_decide_takes_smaller_file_and_fewer_threads_when_times_are_equal() -> None:
    """1.00 and 1.05 are within 5 %; 1.06 is not. The tflite file is the smaller one."""
    times = [
        timing("onnx-int8", "onnxruntime", 1.00),
        timing("tflite-int8", "litert", 1.03, threads=4),
        timing("tflite-int8", "litert", 1.05, threads=2),
        timing("tflite-int8", "litert", 1.06, threads=1),
    ]
    found = choose(times)
    assert (found.artifact, found.threads, found.by) == ("tflite-int8", 2, "size")
    assert "as fast as onnx-int8 on onnxruntime, 1 thread (1.00 ms) within 5 %, and the smaller file (2.41 MB" in (
        found.reason
    )
    assert "no float file was timed here" in found.reason


def rounds(row: Timing, noise: float) -> Timing:
    """The row with 5 rounds of 40 samples, each round with a level of its own."""
    generator = np.random.default_rng(row.threads)
    levels = np.repeat(generator.normal(0, noise, 5) - generator.normal(0, noise / 9), 40)
    times = row.p50_ms * np.exp(levels - np.median(levels) + generator.normal(0, noise / 9, 200))
    return replace(row, samples=tuple(map(float, times)), round_sizes=(40,) * 5)


@pytest.mark.parametrize(
    ("noise", "ships", "undecided"),
    [(0.001, "onnx-int8", False), (0.05, "tflite-int8", False), (0.3, "onnx-int8", True)],
)
def test_decide_calls_times_equal_when_their_intervals_do(noise: float, ships: str, undecided: bool) -> None:
    """6 % between them: more than quiet rounds vary, less than noisy ones. The tflite file is the smaller one.

    Where rounds vary by a third, it may as well be much slower: then the lower p50 ships, and nobody knows.
    """
    times = [timing("onnx-int8", "onnxruntime", 1.00), timing("tflite-int8", "litert", 1.06, threads=2)]
    found = choose([rounds(row, noise) for row in times])
    assert (found.artifact, found.undecided) == (ships, undecided)


def spread(row: Timing, low: float, high: float, **load: float) -> Timing:
    """The row with this interval of its p50, and with samples that do not say where a round begins."""
    return replace(row, p50_ci=(low, high), **load)  # type: ignore[arg-type]


BUSY = (
    spread(timing("onnx-int8", "onnxruntime", 7.72), 0.638, 93.3, load_average=3.1),
    spread(timing("tflite-int8", "litert", 5.24), 2.16, 12.7, load_average=2.6),
)
"""A report from a busy machine of two cores: 7.72 ms were shipped, as the intervals overlap and it loads sooner."""
HOST = Machine("host", "x86_64", "cpu", 2, 8_000_000_000, (), "Linux", "3.11")


def decide_on_host(times: Sequence[Timing], **limits: str) -> Verdict:
    return decide("host", ARTIFACTS, SCORES, times, LimitsSection.model_validate(limits), 1.0, machine=HOST)


def test_decide_prefers_the_lower_p50_where_a_busy_machine_cannot_tell() -> None:
    """ln(93.3 / 0.638) / 2 = 2.49 and ln(12.7 / 2.16) / 2 = 0.886 give 2.64 for the ratio 1.47: 0.105 to 20.7."""
    found = decide_on_host([replace(BUSY[0], load_ms=1.0), BUSY[1]])
    assert (found.artifact, found.by, found.undecided) == ("tflite-int8", "p50", True)
    assert found.reason.endswith(
        "; this machine was too busy to tell whether onnx-int8 on onnxruntime, 1 thread (7.72 ms, 95 % interval 0.638 "
        "to 93.3) is faster than tflite-int8 (5.24 ms, 95 % interval 2.16 to 12.7): load 3.1 on 2 cores while measuring"
    )
    quiet = [spread(BUSY[0], 7.6, 7.85), spread(BUSY[1], 5.2, 5.3)]
    found = decide_on_host(quiet)
    assert (found.artifact, found.undecided) == ("tflite-int8", False)
    assert "too busy" not in found.reason


@pytest.mark.parametrize(
    ("ratio", "ci", "standing"),
    [
        (1.47, (0.105, 20.7), "unclear"),
        (1.02, (0.50, 2.08), "unclear"),  # close by chance
        (1.06, (0.93, 1.21), "unclear"),
        (1.06, (0.94, 1.19), "level"),
        (1.02, (1.01, 1.03), "level"),  # slower, but nobody notices
        (1.06, (1.01, 1.11), "slower"),
        (1.50, (1.01, 2.23), "slower"),  # by how much is uncertain, but not that it is
        (1.05, None, "level"),
        (1.06, None, "slower"),
    ],
)
def test_a_ratio_tells_slower_from_level_from_unclear(
    ratio: float, ci: tuple[float, float] | None, standing: str
) -> None:
    assert noise_rule.judge(ratio, ci) == standing


@pytest.mark.parametrize(
    ("load", "words"),
    [
        ({"load_average": 3.1}, "this machine was too busy to tell x: load 3.1 on 2 cores while measuring"),
        (
            {"load_average": 1.9, "cpu_pressure": 0.37},
            "this machine was too busy to tell x: load 1.9 on 2 cores while measuring, "
            "a process waiting for a core 37 % of the time",
        ),
        (
            {"load_average": 0.9, "cpu_pressure": 0.01, "cpu_steal": 0.12},
            "this machine was too busy to tell x: load 0.9 on 2 cores while measuring, "
            "12 % of the CPU time taken by other virtual machines",
        ),
        (
            {"load_average": 0.9},
            "times varied too much to tell x, although this machine was not busy: load 0.9 on 2 cores while measuring",
        ),
    ],
)
def test_the_load_is_named(load: dict[str, float], words: str) -> None:
    assert noise_rule.words([timing("onnx-int8", "onnxruntime", 1.0), replace(BUSY[0], **load)], 2, "x") == words  # type: ignore[arg-type]


def test_decide_is_undecided_between_float_and_int8_too() -> None:
    """Float is a little faster as measured, so it ships; but whether int8 is faster is not known."""
    times = [spread(timing("onnx-fp32", "onnxruntime", 1.0), 0.5, 2.0), timing("onnx-int8", "onnxruntime", 1.1)]
    assert not decide_on_host(times).undecided  # the interval of int8 is unknown
    found = decide_on_host([times[0], spread(times[1], 0.55, 2.2)])
    assert (found.artifact, found.undecided) == ("onnx-fp32", True)
    by_size = decide_on_host([times[0], spread(times[1], 0.55, 2.2)], ship_by="size")
    assert (by_size.artifact, by_size.undecided) == ("onnx-int8", False)


def test_uncertain_names_the_rows_to_measure_again() -> None:
    """A clear loser is left alone. The two float files must be told apart too: int8 may yet be refused."""
    rows = (
        timing("onnx-int8", "onnxruntime", 1.0),
        timing("tflite-int8", "litert", 1.1),
        timing("onnx-fp32", "onnxruntime", 30.0),
        timing("tflite-fp32", "litert", 33.0),
    )
    wide = [spread(row, row.p50_ms / 2, row.p50_ms * 2) for row in rows]
    slow = spread(timing("onnx-int8", "onnxruntime", 9.0, threads=2), 8.9, 9.1)
    assert uncertain(ARTIFACTS, [*wide, slow]) == wide
    assert uncertain(ARTIFACTS, [replace(row, kind="estimated") for row in wide]) == []
    assert uncertain(ARTIFACTS, [wide[0], wide[2]]) == []
    assert uncertain(ARTIFACTS, [replace(wide[0], reference=True), wide[1]]) == []


@pytest.mark.parametrize(("error", "ships"), [(0.02, "onnx-int8"), (0.2, "tflite-int8")])
def test_decide_calls_estimates_equal_within_their_error_bars(error: float, ships: str) -> None:
    rows = [timing("onnx-int8", "onnxruntime", 1.0), timing("tflite-int8", "litert", 1.1)]
    bare = [
        replace(t, kind="estimated", samples=(), rss_bytes=0, p50_ci=((1 - error) * t.p50_ms, (1 + error) * t.p50_ms))
        for t in rows
    ]
    found = choose(bare, rss_mb=64.0)
    assert found.artifact == ships
    assert "peak memory was not measured, so the 64 MB limit was not checked" in found.reason


def whole(row: Timing, total_ms: float, rss: int = 52_000_000, load_ms: float = 1.35) -> Timing:
    """The row with a time end to end, memory and load time."""
    steps = Steps(decode_ms=0.2, preprocess_ms=0.1, infer_ms=row.p50_ms, postprocess_ms=0.0, total_ms=total_ms)
    return replace(row, steps=steps, rss_bytes=rss, load_ms=load_ms)


@pytest.mark.parametrize(
    ("int8", "by", "words"),
    [
        ((0.440, 67_000_000, 14.6), "end to end", "10.0 % faster end to end (0.400 ms against 0.440 ms)"),
        ((0.410, 67_000_000, 14.6), "memory", "takes less memory (52 MB against 67 MB)"),
        ((0.410, 53_000_000, 14.6), "load time", "loads sooner (1.35 ms against 14.6 ms)"),
    ],
)
def test_decide_judges_the_whole_use_when_p50_differs_by_little(
    int8: tuple[float, int, float], by: str, words: str
) -> None:
    """2 % of p50 does not pay for a slower pass end to end, for more memory, or for a longer load."""
    times = [
        whole(timing("onnx-fp32", "onnxruntime", 0.116), 0.400),
        whole(timing("onnx-int8", "onnxruntime", 0.114), *int8),
    ]
    found = choose(times)
    assert (found.artifact, found.by) == ("onnx-fp32", by)
    assert (
        f"as fast as onnx-int8 on onnxruntime, 1 thread (0.114 ms) within measurement error, and {words}"
        in found.reason
    )
    even = [times[0], whole(times[1], 0.400)]
    assert (choose(even).artifact, choose(even).by) == ("onnx-int8", "size")  # all else equal, the smaller file


def test_decide_judges_by_size_alone_where_the_whole_use_is_unknown_or_not_measured() -> None:
    times = [
        timing("onnx-fp32", "onnxruntime", 0.116),
        whole(timing("onnx-int8", "onnxruntime", 0.114), 0.440, 74_000_000, 21.4),
    ]
    assert choose(times).by == "size"
    emulated = [replace(whole(row, 9.0 * n, 10**8 * n), kind="emulated") for n, row in enumerate(times, 1)]
    assert (choose(emulated).artifact, choose(emulated).by) == ("onnx-int8", "size")


def test_decide_does_not_call_what_is_far_slower_as_fast_because_its_error_bar_is_wide() -> None:
    rows = [timing("tflite-fp32", "litert", 1.31), timing("tflite-int8", "litert", 0.553)]
    wide = [replace(t, kind="estimated", samples=(), p50_ci=(0.3 * t.p50_ms, 3 * t.p50_ms)) for t in rows]
    found = choose(wide)
    assert (found.artifact, found.by) == ("tflite-int8", "p50")
    assert "2.4x faster than the fastest float file (tflite-fp32, litert)" in found.reason


def test_decide_ships_by_end_to_end_when_the_device_says_so() -> None:
    times = [
        whole(timing("onnx-fp32", "onnxruntime", 3.0), 4.0),
        whole(timing("onnx-int8", "onnxruntime", 2.0), 5.0),
    ]
    assert choose(times).artifact == "onnx-int8"
    found = decide("host", ARTIFACTS, SCORES, times, LimitsSection(ship_by="end_to_end"), 1.0)
    assert (found.artifact, found.by) == ("onnx-fp32", "end to end")
    assert "1.2x faster end to end (4.00 ms against 5.00 ms) than the fastest int8 file" in found.reason
    bare = [times[0], timing("onnx-int8", "onnxruntime", 2.0)]
    found = decide("host", ARTIFACTS, SCORES, bare, LimitsSection(ship_by="end_to_end"), 1.0)
    assert (found.artifact, found.by) == ("onnx-int8", "p50")
    assert found.reason.endswith("; p50 decided, because onnx-int8 on onnxruntime, 1 thread has no time end to end")


def test_decide_ships_by_size_when_the_device_says_so() -> None:
    """Even a slower int8 file, if it meets the limits: the device asked for that, and the reason says so."""
    times = [timing("onnx-fp32", "onnxruntime", 1.0), timing("onnx-int8", "onnxruntime", 1.5)]
    found = decide("host", ARTIFACTS, SCORES, times, LimitsSection(ship_by="size"), 1.0)
    assert (found.artifact, found.by) == ("onnx-int8", "size")
    assert "1.5x slower than the fastest float file (onnx-fp32, onnxruntime), but smaller (2.5 MB against 8.93 MB)" in (
        found.reason
    )
    assert decide("host", ARTIFACTS, SCORES, times, LimitsSection(ship_by="size", p90_ms=1.2), 1.0).artifact == (
        "onnx-fp32"
    )


def test_decide_refuses_int8_when_it_loses_too_much() -> None:
    scores = (*SCORES[:4], accuracy("tflite-int8", "litert", 0.869))
    found = choose([timing("onnx-fp32", "onnxruntime", 2.8), timing("tflite-int8", "litert", 1.32)], scores)
    assert found.artifact == "onnx-fp32"
    assert found.reason.endswith(
        "; tflite-int8 on litert, 1 thread is faster (1.32 ms) but it loses 3.1 points of top-1 (1 allowed)"
    )


@pytest.mark.parametrize(("top1", "ships"), [(0.896, "tflite-int8"), (0.8959, "onnx-fp32")])
def test_decide_allows_exactly_max_drop(top1: float, ships: str) -> None:
    """100 * (0.906 - 0.896) is 1.0000000000000009 in binary."""
    scores = (replace(TORCH, top1=0.906), *SCORES[1:4], accuracy("tflite-int8", "litert", top1))
    times = [timing("onnx-fp32", "onnxruntime", 2.8), timing("tflite-int8", "litert", 1.32)]
    assert choose(times, (scores[0], accuracy("onnx-fp32", "onnxruntime", 0.906), scores[-1])).artifact == ships


def test_decide_has_no_accuracy_bound_when_max_drop_is_none() -> None:
    scores = (*SCORES[:4], accuracy("tflite-int8", "litert", 0.5))
    times = [timing("onnx-fp32", "onnxruntime", 2.8), timing("tflite-int8", "litert", 1.32)]
    assert choose(times, scores, max_drop=None).artifact == "tflite-int8"


def test_decide_refuses_what_failed_verification() -> None:
    scores = (*SCORES[:4], accuracy("tflite-int8", "litert", 0.9, passed=False, problem="agreement 0.71, 0.995 needed"))
    found = choose([timing("onnx-fp32", "onnxruntime", 2.8), timing("tflite-int8", "litert", 1.32)], scores)
    assert found.artifact == "onnx-fp32"
    assert "it failed verification (agreement 0.71, 0.995 needed)" in found.reason


def test_decide_refuses_what_was_not_verified_in_that_engine() -> None:
    """A validation score does not count, nor does another engine's."""
    scores = (TORCH, accuracy("tflite-int8", "litert", 0.9, split="val"), accuracy("tflite-int8", "torch", 0.9))
    found = choose([timing("tflite-int8", "litert", 1.32)], scores)
    assert found.artifact is None
    assert "it was not verified on the test split" in found.reason


def test_decide_refuses_everything_when_torch_was_not_scored_but_a_drop_is_bounded() -> None:
    assert "torch-fp32 was not scored" in choose([timing("tflite-int8", "litert", 1.0)], SCORES[1:]).reason
    assert choose([timing("tflite-int8", "litert", 1.0)], SCORES[1:], max_drop=None).artifact == "tflite-int8"


def test_decide_prefers_score_of_the_device_itself() -> None:
    elsewhere = replace(SCORES[4], device="board")
    here = replace(SCORES[4], top1=0.5)
    for scores in ((TORCH, elsewhere, here), (TORCH, here, elsewhere)):
        assert choose([timing("tflite-int8", "litert", 1.0)], scores).artifact is None
    assert choose([timing("tflite-int8", "litert", 1.0)], (TORCH, elsewhere)).artifact == "tflite-int8"


def test_decide_says_by_how_much_the_nearest_misses_when_nothing_meets_the_limits() -> None:
    times = [
        timing("onnx-fp32", "onnxruntime", 30, p90=40),  # 100 % over
        timing("tflite-int8", "litert", 20, p90=24),  # 20 % over
    ]
    found = choose(times, p90_ms=20)
    assert (found.artifact, found.engine, found.threads) == (None, None, None)
    assert found.reason == (
        "nothing can be shipped; closest is tflite-int8 on litert, 1 thread (p50 20.0 ms), "
        "but its p90 of 24 ms is 20 % over the 20 ms allowed"
    )


def test_decide_holds_every_limit() -> None:
    times = [timing("tflite-int8", "litert", 1.0, rss_bytes=96_000_000)]
    assert choose(times, p90_ms=1.04, size_mb=2.5, rss_mb=96.0).artifact == "tflite-int8"
    assert "its size of 2.41 MB is 21 % over the 2 MB allowed" in choose(times, size_mb=2.0).reason
    both = choose(times, size_mb=2.0, rss_mb=64.0).reason
    assert "its size of 2.41 MB is 21 % over the 2 MB allowed and its peak memory of 96 MB is 50 % over" in both


def test_decide_ships_slower_int8_when_no_float_fits_the_device() -> None:
    """Nothing float can be shipped there, so int8 is not worse than anything."""
    found = choose([timing("onnx-fp32", "onnxruntime", 1.0), timing("onnx-int8", "onnxruntime", 1.2)], size_mb=5.0)
    assert found.artifact == "onnx-int8"
    assert "1.2x slower than the fastest float file (onnx-fp32, onnxruntime), which is refused because its size" in (
        found.reason
    )
    assert found.speedup == pytest.approx(1 / 1.2)


def test_decide_never_mixes_kinds_of_timing() -> None:
    """The emulated int8 looks faster, but a measured float beats any emulated number."""
    times = [timing("onnx-fp32", "onnxruntime", 5.0), timing("tflite-int8", "litert", 0.1, kind="emulated")]
    found = choose(times)
    assert (found.artifact, found.kind) == ("onnx-fp32", "measured")
    assert "emulated" not in found.reason


@pytest.mark.parametrize("kind", ["emulated", "estimated"])
def test_decide_says_so_when_times_are_not_measured(kind: Kind) -> None:
    found = choose([timing("tflite-int8", "litert", 1.0, kind=kind)])
    assert found.kind == kind
    assert found.reason.endswith(f"; the times are {kind}, not measured")


@pytest.mark.parametrize("times", [[], [timing("tflite-int8", "litert", 1.0, device="board")]])
def test_decide_says_so_when_nothing_was_timed_there(times: list[Timing]) -> None:
    found = choose(times)
    assert found.artifact is None
    assert found.reason.startswith("nothing was timed on host")


def test_decide_ignores_batches() -> None:
    assert choose([timing("onnx-fp32", "onnxruntime", 1.0, batch=8)]).artifact is None


def test_decide_agrees_with_the_hand_written_report() -> None:
    sample = report()
    for written in sample.verdict:
        limits = LimitsSection.model_validate(sample.limits[written.device])
        found = decide(written.device, sample.artifacts, sample.accuracy, sample.latency, limits, 1.0)
        assert found.reason == written.reason
        assert (found.artifact, found.engine, found.threads) == (written.artifact, written.engine, written.threads)
        assert found.top1_drop == pytest.approx(written.top1_drop)
        assert found.speedup == pytest.approx(written.speedup)


milliseconds = st.floats(0.01, 1000)


@given(st.lists(st.tuples(st.sampled_from(SCORES[1:]), milliseconds, st.integers(1, 8)), min_size=1, max_size=12))
def test_decide_is_never_worse_than_float_and_near_the_fastest(rows: list[tuple[Accuracy, float, int]]) -> None:
    times = [timing(score.artifact, score.engine, p50, threads=n) for score, p50, n in rows]
    found = choose(times)
    matching = [
        t.p50_ms for t in times if (t.artifact, t.engine, t.threads) == (found.artifact, found.engine, found.threads)
    ]
    assert min(matching) <= 1.05 * min(t.p50_ms for t in times)
    floats = [t.p50_ms for t in times if "fp32" in t.artifact]
    if floats and found.artifact is not None and "int8" in found.artifact:
        assert min(matching) < min(floats)
