"""Rules that a run must keep, and the verdict on them."""

import importlib

_HOME = {"Rules": "rules", "load": "rules", "judge": "verdict", "Verdict": "verdict"}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f"robustastro.gate.{_HOME[name]}"), name)
    raise AttributeError(f"module 'robustastro.gate' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
