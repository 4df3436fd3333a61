"""What a model makes of perturbed galaxies: train it, attack it, measure it, draw it."""

import importlib

__version__ = "0.1.0"

_HOME = {
    "InputContract": "contract",
    "Galaxies": "data.galaxies",
    "read": "data.readers",
    "simulate": "data.mocks",
    "load_model": "models.bundles",
    "Subject": "models.subject",
    "train": "adapt.training",
    "Plan": "evaluate.plan",
    "attack": "evaluate.engine",
    "evaluate": "evaluate.engine",
    "Record": "record",
    "summarise": "metrics.summary",
    "compare": "metrics.comparison",
}
__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f"robustastro.{_HOME[name]}"), name)
    raise AttributeError(f"module 'robustastro' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
