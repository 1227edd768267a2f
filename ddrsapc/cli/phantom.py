"""`ddrsapc phantom`: simulated scans with their truth as files."""

from __future__ import annotations

import json
from pathlib import Path

import click

import ddrsapc
from ddrsapc.files import write_atomically
from ddrsapc.phantom import draw_case, make_case
from ddrsapc.phantom.draws import SEEDS
from ddrsapc.phantom.parameters import PHANTOM_VERSION, SPLITS, Split
from ddrsapc.phantom.writing import FORMATS, Format, is_written, write_case

__all__ = ["phantom"]

_SETTINGS = "phantom.json"


@click.command(short_help="Write simulated scans with exact truth.")
@click.option(
    "-o", "--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder to write to."
)
@click.option("--cases", type=click.IntRange(min=1), default=10, show_default=True, help="How many.")
@click.option("--split", type=click.Choice(SPLITS), default="train", show_default=True, help="No two share a case.")
@click.option("--seed", type=click.IntRange(0, SEEDS - 1), default=0, show_default=True, help="Of all cases.")
@click.option("--size", type=click.IntRange(min=32), default=512, show_default=True, help="Pixels per side.")
@click.option(
    "--format", "file_format", type=click.Choice(FORMATS), default="nifti", show_default=True, help="Of the scans."
)
@click.option("--density", is_flag=True, help="Write the density maps too, in OUT/truth; large as npy.")
def phantom(*, out: Path, cases: int, split: Split, seed: int, size: int, file_format: Format, density: bool) -> None:
    """Write simulated non-contrast cardiac CT scans, the calcium's labels and the exact truth.

    OUT/images and OUT/labels have a file each per case (DICOM: a folder of images), as training reads them,
    OUT/truth what was drawn: every lesion, and all else that is as bright. The same command again goes on where it
    stopped; more --cases add to what is there.

    \b
      ddrsapc phantom --out data/train --cases 100 --format npy
      ddrsapc phantom --out scans --cases 5 --split test --format dicom
    """
    settings: dict[str, object] = {
        "split": split,
        "seed": seed,
        "size": size,
        "format": file_format,
        "phantom": PHANTOM_VERSION,
        "ddrsapc": ddrsapc.__version__,
    }
    out.mkdir(parents=True, exist_ok=True)
    _claim(out, settings)
    for index in range(cases):
        name = draw_case(seed, index, split=split, size=size).name
        if is_written(name, out, file_format, density=density):
            click.echo(f"{name}: done already")
            continue
        case = make_case(seed, index, split=split, size=size)
        write_case(case, out, file_format, density=density)
        click.echo(f"{name}: {len(case.draw.lesions)} lesions, {case.mass_mg:.1f} mg of coronary calcium")


def _claim(out: Path, settings: dict[str, object]) -> None:
    """Note the settings in a new folder; refuse one that has other things in it."""
    path = out / _SETTINGS
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            found = None
        if found != settings:
            raise FileExistsError(f"{out} has cases of other settings (see {path}); give another folder, or remove it")
        return
    if any(not entry.name.startswith(".") for entry in out.iterdir()):
        raise FileExistsError(f"{out} is not empty, and holds no simulated cases; give another folder")
    write_atomically(path, (json.dumps(settings, indent=2) + "\n").encode())
