"""The command's parts, and how it ends."""

from __future__ import annotations

import os
from collections.abc import Sequence

import click
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

import ddrsapc
from ddrsapc.cli.evaluate import evaluate
from ddrsapc.cli.phantom import phantom
from ddrsapc.cli.predict import predict
from ddrsapc.cli.prepare import prepare
from ddrsapc.cli.scans import models, score
from ddrsapc.cli.train import train
from ddrsapc.cli.weights import convert, push, verify
from ddrsapc.data import DataError

__all__ = ["cli", "run"]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, no_args_is_help=True)
@click.version_option(ddrsapc.__version__, message="ddrsapc %(version)s")
def cli() -> None:
    """Real-time segmentation of coronary artery calcification in cardiac CT.

    For research only; not a medical device.
    """


for command in (models, predict, score, phantom, prepare, train, evaluate, convert, verify, push):
    cli.add_command(command)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run `ddrsapc ARGUMENTS...`; errors are one line, but for training data: a line for each file.

    Under `torchrun` the error is noted for it as well: it reports that of the process that failed first.

    Args:
        arguments: None: those of the process.

    Returns:
        The exit code: 0, 2 for input that cannot be used, 130 after Ctrl-C.
    """
    try:
        cli.main(arguments, prog_name="ddrsapc", standalone_mode=False)
    except (KeyboardInterrupt, click.Abort) as error:
        click.echo(f"stopped; {error}" if str(error) else "stopped", err=True)
        return 130
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except (click.ClickException, ImportError, OSError, RuntimeError, TypeError, ValueError, MemoryError) as error:
        text = error.format_message() if isinstance(error, click.ClickException) else str(error)
        text = text if isinstance(error, DataError) else " ".join(text.split())
        click.echo(f"error: {text or type(error).__name__}", err=True)
        if "TORCHELASTIC_ERROR_FILE" in os.environ:
            error.__cause__ = error.__context__ = None  # torchrun prints what is recorded: the error, no traceback
            get_error_handler().record_exception(error.with_traceback(None))
        return 2
    return 0
