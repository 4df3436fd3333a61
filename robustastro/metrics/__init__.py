"""Numbers from a record, with their intervals. Imports no model, no torch, no scipy.stats and nothing that draws."""

import importlib

_HOME = {
    "Estimate": "intervals",
    "balanced": "intervals",
    "fraction": "intervals",
    "mean": "intervals",
    "median": "intervals",
    "paired_drop": "intervals",
    "proportion": "intervals",
    "worst_class": "intervals",
    "bootstrap": "resampling",
    "bootstrap_seeds": "resampling",
    "cohens_dz": "significance",
    "cohens_h": "significance",
    "difference": "significance",
    "holm": "significance",
    "mcnemar": "significance",
    "odds_ratio": "significance",
    "over_seeds": "significance",
    "ratio": "significance",
    "corruption_error": "ladder",
    "mce": "ladder",
    "severity_area": "ladder",
    "worst_case": "ladder",
    "critical_strength": "critical",
    "survival": "critical",
    "brier": "calibration",
    "brier_parts": "calibration",
    "calibration_error": "calibration",
    "negative_log_likelihood": "calibration",
    "classification": "classification",
    "reliability_curve": "calibration",
    "temperature": "calibration",
    "auroc": "open_set",
    "called_unknown": "open_set",
    "auc_over_seeds": "classification",
    "entropy": "open_set",
    "true_classes": "open_set",
    "h_score": "open_set",
    "mmd": "domain",
    "proxy_a_distance": "domain",
    "silhouette": "domain",
    "refuse_unlike": "comparable",
    "roc_curve": "classification",
    "boundary_distance": "distances",
    "centroid_margin": "distances",
    "latent_scale": "distances",
    "latent_shift": "distances",
    "common_flips": "summary",
    "space_difference": "summary",
    "summarise": "summary",
    "compare_table": "tables",
    "table": "tables",
}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f"robustastro.metrics.{_HOME[name]}"), name)
    raise AttributeError(f"module 'robustastro.metrics' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
