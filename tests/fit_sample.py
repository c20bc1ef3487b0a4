"""Hand-written outcomes of a search."""

from __future__ import annotations

from dataclasses import replace

from edgekit.fit.records import Candidate, Measurement, Net, Prediction, Result, Spent, Trained
from edgekit.measurements import Kind
from edgekit.types import PrunePlan

NET = Net("mobilenetv2_100", 160)
HOSTILE = "<script>alert('x')</script> & | `b` \"q\""
MODEL = (
    "tflite in litert 2.3.0, 4 threads, measured: 11 networks, each predicted from the others to 1.4% (median), "
    "1.8% (90th percentile)"
)


def measured(ms: float, device: str = "my-pi", kind: Kind = "measured", mb: float = 2.4) -> Measurement:
    low, high = (0.985 * ms, 1.012 * ms) if kind == "measured" else (ms, ms)
    return Measurement(device, "Cortex-A76", "litert", "2.3.0", "tflite", kind, ms, high, low, 61.2, mb, 4)


def predicted(ms: float, device: str = "my-pi") -> tuple[Prediction, ...]:
    return (Prediction(device, ms, 0.95 * ms, 1.05 * ms),)


def plan(kept: int) -> PrunePlan:
    kept_of = {"conv_stem": tuple(range(24)), "blocks.1.0.conv_pw": tuple(range(kept))}
    return PrunePlan(kept_of, {"conv_stem": 32, "blocks.1.0.conv_pw": 96})


def trained(*scores: float) -> tuple[Trained, ...]:
    return tuple(Trained(epochs, score, 31.0 * epochs) for epochs, score in zip((1, 3, 20), scores, strict=False))


def pruned(name: str, ms: float, guess: float, kept: int, scores: tuple[float, ...], dropped: str = "") -> Candidate:
    macs, how = int(153e6 * guess / 14), "least important for each millisecond first"
    return Candidate(
        name, NET, how, plan(kept), macs, 1_310_000, predicted(guess), (measured(ms),), trained(*scores), dropped
    )


def found() -> Result:
    """One device; a pruned network ships; a lower resolution was trained as well, a smaller network was too slow."""
    whole = Candidate("whole", NET, "unpruned", None, 153_000_000, 2_230_000, (), (measured(14.1),))
    whole = replace(whole, trained=(Trained(30, 0.9012, 900.0),))
    narrowest = Candidate("narrowest", NET, "the fewest channels", plan(8), 9_000_000, 100_000, (), (measured(2.31),))
    low = Candidate(
        "mobilenetv2_100-128", Net(NET.name, 128), "unpruned, trained straight", None, 98_000_000, 2_230_000
    )
    other = Candidate("resnet18-160", Net("resnet18", 160), "unpruned, trained straight", None, 926_000_000, 11_180_000)
    return Result(
        8.0,
        50,
        1.0,
        whole,
        narrowest,
        (
            pruned("per-ms", 7.83, 7.61, 48, (0.7124, 0.8205, 0.8967)),
            pruned("absolute-per-ms", 7.71, 7.77, 40, (0.7312, 0.8241, 0.8911)),
            pruned("uniform", 7.92, 7.4, 56, (0.6533, 0.7719), "77.2% after 3 epochs, and 2 others at least 82.0%"),
            pruned("importance", 7.66, 7.9, 40, (0.5821,), "58.2% after 1 epochs, and 3 others at least 65.3%"),
            Candidate("norm-per-ms", NET, "smallest weights first", None, 0, 0, (), (), (), "fit.max_ms: out of reach"),
            replace(low, measured=(measured(7.4),), trained=(Trained(30, 0.8731, 610.0),)),
            replace(other, measured=(measured(31.0),), dropped="takes 392% of the budget"),
        ),
        "per-ms",
        shipped=(measured(7.88, mb=1.61),),
        top1=(0.9034, 0.8991),
        holds=True,
        said="per-ms: 7.88 ms (7.76 to 7.97) on my-pi, tflite in litert; the budget is 8 ms; test top-1 89.9%, the "
        "whole network 90.3%",
        models={"my-pi": MODEL},
        spent=Spent(31, 212.4, 3725.0, 4210.9),
    )


def dry() -> Result:
    """Nothing was trained."""
    front = tuple(
        Candidate(f"{ms}-ms", NET, "scored once", plan(int(6 * ms)), int(10.5e6 * ms), 1_000_000, predicted(0.97 * ms))
        for ms in (12.7, 10.6, 8.0, 6.3, 4.9, 3.5)
    )
    whole = replace(found().whole, trained=())
    return Result(8.0, 50, 1.0, whole, found().narrowest, front=front, models={"my-pi": MODEL}, spent=Spent(13, 70.8))


def unreached() -> Result:
    """Out of reach: nothing was measured but the two ends, and nothing trained."""
    said = "2 ms is out of reach on my-pi: even the narrowest mobilenetv2_100 takes 2.31 ms; allow --max-ms 2.6"
    return Result(2.0, 50, 1.0, replace(found().whole, trained=()), found().narrowest, said=said)


def unmeasured() -> Result:
    """A search that was cut off at once."""
    return Result(2.0, 90, 1.0, replace(found().whole, trained=(), measured=()), None, said="nothing was timed")


def missed() -> Result:
    """What ships misses a limit, on two devices, one of them emulated."""
    one = found()
    both = tuple(
        replace(
            each,
            measured=(*each.measured, *(measured(2.4 * row.ms, "emulated pi", "estimated") for row in each.measured)),
        )
        for each in one.candidates
    )
    whole = replace(one.whole, measured=(*one.whole.measured, measured(33.0, "emulated pi", "estimated")))
    return replace(
        one,
        whole=whole,
        candidates=both,
        holds=False,
        top1=(0.9034, 0.8612),
        said="8 ms costs 4.2 points, 1 are allowed",
    )


def hostile() -> Result:
    """Names from outside that try to be markup, wherever they can come from."""
    one = found()
    net = Net(HOSTILE, 160)
    row = replace(measured(7.5, HOSTILE), cpu=HOSTILE, engine_version=HOSTILE)
    layer = PrunePlan({HOSTILE: (0, 1)}, {HOSTILE: 4})
    first = replace(one.candidates[0], net=net, plan=layer, measured=(row,), predicted=predicted(7.4, HOSTILE))
    last = replace(one.candidates[2], how=HOSTILE, dropped=HOSTILE)
    whole = replace(one.whole, net=net, measured=(row,))
    return replace(one, whole=whole, candidates=(first, last), shipped=(row,), said=HOSTILE, models={HOSTILE: HOSTILE})
