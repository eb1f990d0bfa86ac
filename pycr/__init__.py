# SPDX-License-Identifier: GPL-2.0-or-later
"""pycr: transparent checkpoint/restart of Slurm job steps and batch jobs.

For programs: on_checkpoint() and critical_section() (callback.py), imported when first used, so
that `import pycr` costs srun_cr nothing.
"""

from __future__ import annotations

__version__ = "0.1.0"
__all__ = ["TryLater", "critical_section", "on_checkpoint"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pycr.callback import TryLater, critical_section, on_checkpoint


def __getattr__(name: str) -> object:
    if name in __all__:
        from pycr import callback

        return getattr(callback, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
