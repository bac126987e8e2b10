"""Loading and saving of models without the noise of the libraries that do it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import Any


@contextmanager
def quiet() -> Iterator[None]:
    """Shows the bars of transformers on terminals only, and no warnings of any library.

    What is wrong with a model is an error of ours, and DeepSpeed, which transformers imports to
    save a model, warns wherever there is no GPU.
    """
    from transformers.utils import logging as bars

    gguf: Any = import_module("transformers.modeling_gguf_pytorch_utils")
    showed_bars, bar = bars.is_progress_bar_enabled(), gguf.tqdm
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    gguf.tqdm = partial(bar, disable=None)  # off a terminal; it does not ask transformers' setting
    if not sys.stderr.isatty():
        bars.disable_progress_bar()
    try:
        yield
    finally:
        logging.disable(disabled)
        gguf.tqdm = bar
        if showed_bars:
            bars.enable_progress_bar()
