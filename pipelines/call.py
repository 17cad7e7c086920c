"""What every verb of the command line gets beside its own arguments."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.flags import dotted

if TYPE_CHECKING:
    from pipelines.config import Config


@dataclass(frozen=True)
class Call:
    """What the options of every command say; verbs get it as `call`."""

    config_file: Path | None = None
    verbose: bool = False
    quiet: bool = False

    def config(self, given: dict[str, Any] | None = None) -> Config:
        """The validated settings: flags of this call over environment over file over defaults."""
        from pipelines.settings import load_config

        return load_config(self.config_file, os.environ, dotted(given or {}))
