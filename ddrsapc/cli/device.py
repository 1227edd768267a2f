"""The device that `--device` names."""

from __future__ import annotations

import click
import torch

__all__ = ["device_of"]


def device_of(name: str | None) -> torch.device:
    """The device that an option names; None: a GPU where there is one.

    Raises:
        click.UsageError: if there is no such device.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        if device.type == "cuda":  # without taking memory on the first GPU for every process
            count = torch.cuda.device_count()
            if (device.index or 0) < count:
                return device
            reason = f"PyTorch finds {count} GPU(s)"
        else:
            torch.empty(0, device=device)
            return device
    except (AssertionError, RuntimeError) as error:  # torch raises either where there is no such device
        reason = str(error)
    raise click.UsageError(f"--device {name}: {reason}")
