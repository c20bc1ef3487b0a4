"""What the fork server of `tests.warm` has imported: packages of others alone, and none that starts a thread."""

import logging
import warnings
from contextlib import suppress
from importlib import import_module

MODULES = (
    "torch", "torchvision.transforms.v2", "timm", "torchao.quantization.pt2e", "onnxscript", "sklearn.datasets",
    "sklearn.linear_model", "litert_torch",
)  # fmt: skip

logging.disable(logging.WARNING)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    for _name in MODULES:
        with suppress(ImportError):  # what needs it will say so
            import_module(_name)
logging.disable(logging.NOTSET)
