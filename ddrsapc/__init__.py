"""Real-time segmentation of coronary artery calcification in cardiac CT."""

from ddrsapc import checkpoint, layers, losses, metrics, models, profile
from ddrsapc.factory import create_model, list_models
from ddrsapc.optimize import optimize_for_inference
from ddrsapc.registry import is_model, model_entrypoint, register_model

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "checkpoint",
    "create_model",
    "is_model",
    "layers",
    "list_models",
    "losses",
    "metrics",
    "model_entrypoint",
    "models",
    "optimize_for_inference",
    "profile",
    "register_model",
]
