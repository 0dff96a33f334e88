"""The frame of a training's processes: what they say goes to one stream, and how they end."""

from __future__ import annotations

import errno
import logging
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from isthmus.core.errors import IsthmusError
from isthmus.distill.training.events import Event, Failed, Finished, Teller
from isthmus.distill.training.job import Workplace
from isthmus.providers.engines.child import end_with_parent, keep_stdout

FREE_SOME = "Free some space and give the same command: nothing that was finished is lost."

NICENESS = 10
"""A training takes what other processes leave."""


def carry_out(work: Callable[[Workplace, Callable[[Event], None]], None]) -> None:
    """Do `work` in the folder that the first argument names, and tell how it went.

    The process ends with its parent, reaches no network, and is polite to others.
    """
    tell = Teller(keep_stdout(), int(os.environ.get("RANK", "0")))
    end_with_parent()
    os.nice(NICENESS)
    keep_to_oneself()
    try:
        work(Workplace(Path(sys.argv[1])), tell)
    except IsthmusError as error:
        tell(Failed(error.code, error.message, error.hint))
        sys.exit(1)
    except ModuleNotFoundError as error:
        tell(missing(error.name or "a package"))
        sys.exit(1)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        tell(Failed("disk_full", f"The disk is full: {error.filename or sys.argv[1]}.", FREE_SOME))
        sys.exit(1)
    tell(Finished())


def keep_to_oneself() -> None:
    """From now on Hugging Face's libraries reach no network and print nothing; before they are imported."""
    os.environ.update({"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "0"})
    os.environ.update({"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"})
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)


def missing(package: str) -> Failed:
    """That the extra `train` is not installed for this Python."""
    return Failed(
        "missing_extra",
        f"Training needs the package {package}, which {sys.executable} does not have.",
        "Install it there: pip install 'isthmus[train]'. Or name a Python that has it: --python FILE.",
    )
