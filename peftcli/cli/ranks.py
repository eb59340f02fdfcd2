"""The process between ``peft train --nproc`` and its ranks: torch's launcher, without its tracebacks."""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path

from peftcli import files
from peftcli.cli.environment import DEBUG, end_with_parent
from peftcli.cli.launch import DEATHS, FOLDER


def main(arguments: list[str]) -> int:
    """Run torch.distributed.run and leave word of how each rank ended."""
    end_with_parent(signal.SIGTERM)
    if DEBUG not in os.environ:
        logging.disable(logging.CRITICAL)  # what went wrong is said once, by the process above
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as run

    try:
        run(arguments)
    except ChildFailedError as error:
        deaths = {str(rank): failure.exitcode for rank, failure in error.failures.items()}
        files.write_json(Path(os.environ[FOLDER]) / DEATHS, deaths)
        return 1
    except SignalException as error:
        return 128 + error.sigval
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
