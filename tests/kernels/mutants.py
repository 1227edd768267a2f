"""Wrong kernels, to see whether the tests notice: each is a kernel with one change, of kinds that happen.

python -m tests.kernels.mutants -o docs/results/kernels/mutants.json
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path("ddrsapc/kernels/triton")
COPIED = ("ddrsapc", "tests", "pyproject.toml", "weights_manifest.json")


@dataclass(frozen=True)
class Mutant:
    """One change."""

    kernel: str
    """Whose tests should fail."""
    kind: str
    file: str
    old: str
    new: str


def _of(kernel, *changes):
    return [Mutant(kernel, kind, f"{file}.py", old, new) for kind, file, old, new in changes]


MUTANTS = [
    *_of(
        "upsample_add_act",
        (
            "swapped index",
            "upsample_add_act",
            "corners(y, h, FACTORS[2 * i], ACC)",
            "corners(y, h, FACTORS[2 * i + 1], ACC)",
        ),
        ("swapped index", "upsample_add_act", "(1 - wx) * c + wx * d", "(1 - wx) * d + wx * c"),
        ("swapped index", "upsample_add_act", "+ y) * (width * FACTOR_X)", "+ y) * (width * FACTOR_Y)"),
        (
            "missing mask",
            "upsample_add_act",
            "tl.store(out + offset, total, mask=mask)",
            "tl.store(out + offset, total)",
        ),
        ("missing mask", "upsample_add_act", "counts = mask & (weight > 0)", "counts = mask"),
        ("off by one", "bilinear", "i * FACTOR - FACTOR // 2", "i * FACTOR - FACTOR // 2 + 1"),
        ("off by one", "bilinear", "tl.minimum(low + 1, size - 1)", "tl.minimum(low + 1, size)"),
        ("off by one", "upsample_add_act", "range(2 * FACTOR_Y - FACTOR_Y % 2)", "range(2 * FACTOR_Y - 1)"),
        (
            "accumulation",
            "bilinear",
            "tl.float64 if x.element_size() == 8 else tl.float32",
            "tl.float64 if x.element_size() == 8 else tl.float16",
        ),
        ("condition", "upsample_add_act", "(y // FACTOR_Y == low_y)", "(y // FACTOR_Y == low_y + 1)"),
        ("condition", "upsample_add_act", "tl.where(positive <= 0, 0.0, value)", "value"),
    ),
    *_of(
        "dual_gate",
        ("swapped index", "dual_gate", "y, x = i // FACTOR_Y, j // FACTOR_X", "y, x = i // FACTOR_X, j // FACTOR_Y"),
        ("swapped index", "dual_gate", "wy * ((1 - wx) * c + wx * d)", "wx * ((1 - wy) * c + wy * d)"),
        (
            "missing mask",
            "dual_gate",
            "tl.store(out + offset, gate[:, None] * value, mask=mask)",
            "tl.store(out + offset, gate[:, None] * value)",
        ),
        (
            "missing mask",
            "dual_gate",
            "tl.store(grad_x + offset, gate[:, None] * of_out, mask=mask)",
            "tl.store(grad_x + offset, gate[:, None] * of_out)",
        ),
        (
            "missing mask",
            "dual_gate",
            "tl.store(grad_gate + pixel, total, mask=inside)",
            "tl.store(grad_gate + pixel, total)",
        ),
        ("off by one", "bilinear", "(FACTOR - 1) // 2", "FACTOR // 2"),
        ("off by one", "dual_gate", "range(0, channels, BLOCK_C)", "range(0, channels - BLOCK_C, BLOCK_C)"),
        ("accumulation", "dual_gate", "torch.promote_types(x.dtype, torch.float32)", "x.dtype"),
        (
            "accumulation",
            "dual_gate",
            "mask=mask, other=0.0).to(ACC), 1)",
            "mask=mask, other=0.0).to(ACC), 1).to(tl.float16)",
        ),
        ("condition", "dual_gate", "-total * attention", "total * attention"),
        (
            "condition",
            "dual_gate",
            "tl.store(grad_own + pixel, total * attention * (1 - attention), mask=inside)",
            "tl.store(grad_own + pixel, total * attention, mask=inside)",
        ),
    ),
    *_of(
        "ohem_cross_entropy",
        ("swapped index", "logits", "image * (size * CLASSES) + pixel", "image * size + pixel"),
        ("swapped index", "ohem_kernels", "sums = sums_of_fallback", "sums = sums"),
        ("missing mask", "ohem_kernels", "valid = mask & (label != ignore_index)", "valid = label != ignore_index"),
        ("missing mask", "ohem_kernels", "counts = inside & (part > 0)", "counts = inside"),
        ("off by one", "ohem_kernels", "return k, k, (", "return k, k - 1, ("),
        ("off by one", "select", "(above <= rank)", "(above < rank)"),
        ("off by one", "ohem_kernels", "channel == label[:, None], 1.0", "channel == label[:, None] + 1, 1.0"),
        (
            "accumulation",
            "logits",
            "value = tl.load(logits + offset, mask=counts, other=0.0).to(tl.float32)",
            "value = tl.load(logits + offset, mask=counts, other=0.0)",
        ),
        ("accumulation", "select", "rank = rank - tl.sum(tl.where(here, above, 0), 0)", "rank = rank"),
        ("condition", "ohem_kernels", "~(key <= cut)", "~(key < cut)"),
        ("condition", "ohem_kernels", "missing / (tied * divisor)", "missing / divisor"),
        ("condition", "ohem_kernels", "class_weight * counted", "counted"),
    ),
    *_of(
        "upsample_argmax",
        (
            "swapped index",
            "logits",
            "corners(y, height, FACTOR_Y, tl.float32)",
            "corners(y, height, FACTOR_X, tl.float32)",
        ),
        ("swapped index", "logits", "y1 * width + x0", "y0 * width + x1"),
        ("swapped index", "logits", "[:, None] + channel * size", "[:, None] + channel * CLASSES"),
        ("missing mask", "upsample_argmax", "first).to(tl.uint8), mask=mask)", "first).to(tl.uint8))"),
        ("missing mask", "logits", 'tl.where(channel < CLASSES, value, -float("inf"))', "value"),
        ("missing mask", "logits", "mask[:, None] & (channel < CLASSES)", "mask[:, None]"),
        ("off by one", "bilinear", "2 * i + 1 - FACTOR", "2 * i - FACTOR"),
        ("off by one", "bilinear", "row // height, row % height", "row // height, row % width"),
        (
            "accumulation",
            "bilinear",
            ".to(ACC) / (2 * FACTOR)",
            ".to(tl.int32) // (2 * FACTOR)",
        ),
        (
            "condition",
            "upsample_argmax",
            "tl.min(tl.where(is_largest, channel, BLOCK_C), 1)",
            "tl.max(tl.where(is_largest, channel, -1), 1)",
        ),
        ("condition", "upsample_argmax", "tl.where(first_nan < BLOCK_C, first_nan, first)", "first"),
    ),
]


def kernels_digest():
    """SHA-256 of the kernels that the mutants were made of."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / FOLDER).glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def first_failure(kernel, mutant=None):
    """Of the kernel's tests, run with a mutant or as they are; None if all pass."""
    with tempfile.TemporaryDirectory() as folder:
        for name in COPIED:
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, Path(folder, name))
        if mutant is not None:
            path = Path(folder, FOLDER, mutant.file)
            path.write_text(path.read_text().replace(mutant.old, mutant.new))
        command = [sys.executable, "-m", "pytest", "-x", "-q", f"tests/kernels/interpreted/{kernel}.py"]
        environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": folder}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return None
    failed = [line.split("::")[1].split(" - ")[0] for line in done.stdout.splitlines() if line.startswith("FAILED")]
    if not failed:
        raise RuntimeError(f"{mutant} broke the tests themselves:\n{done.stdout}{done.stderr}")
    return failed[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args()
    for kernel in dict.fromkeys(mutant.kernel for mutant in MUTANTS):
        if (failed := first_failure(kernel)) is not None:
            parser.error(f"{failed} fails without a mutant; mend it first")
    rows = []
    for mutant in MUTANTS:
        rows.append(asdict(mutant) | {"caught_by": first_failure(mutant.kernel, mutant)})
        print(mutant.kernel, repr(mutant.new), "->", rows[-1]["caught_by"], flush=True)  # noqa: T201
    args.output.parent.mkdir(parents=True, exist_ok=True)
    result = {"torch": torch.__version__, "kernels_sha256": kernels_digest(), "mutants": rows}
    args.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
