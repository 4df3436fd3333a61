"""What can happen to an image of a galaxy: corruptions in physical units, and attacks.

Knows pixels, units and randomness; knows no data file, no command line and no network class.
"""

import importlib

_HOME = {
    "Observation": "core",
    "Perturbation": "core",
    "Victim": "core",
    "AttackResult": "core",
    "attack": "core",
    "corruption": "core",
    "catalogue": "core",
    "get": "core",
    "Draws": "draws",
    "Exposure": "exposure",
    "InputError": "errors",
    "BrokenPromise": "errors",
}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f"perturbations.{_HOME[name]}"), name)
    raise AttributeError(f"module 'perturbations' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
