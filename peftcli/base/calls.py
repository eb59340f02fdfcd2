"""Calls into transformers: it stays quiet, and what it raises is said in one sentence."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from peftcli.errors import BaseModelError, ResourceError


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from talking: what matters is checked here and said in our words."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextlib.contextmanager
def explained(label: str) -> Iterator[None]:
    """Say in one sentence what transformers says in many.

    Raises:
        BaseModelError: The files of ``label`` cannot be used.
        ResourceError: The memory is too small for them.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise ResourceError("the base model does not fit into memory", where=label) from error
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise BaseModelError(f"cannot be loaded: {type(error).__name__}: {first}", where=label) from error
