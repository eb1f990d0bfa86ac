# SPDX-License-Identifier: GPL-2.0-or-later
"""What keeps a step or a job going, as it was given to srun or sbatch: the plugin's words.

    checkpoint=1800 before_end=-1 keep=3 skip_done=1 name=main fallback=fail checkpoint_dir=/a b

spank_cr/options.pxi (cr_settings) writes them, into SRUN_CR_SETTINGS or a file beside srun_cr's
socket; a word is missing where the option was not given. Imported on srun_cr's way: no modules.
"""

from __future__ import annotations

AUTO = -1  # in place of seconds
NEVER = -2
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


class Settings:
    """checkpoint, before_end: seconds, AUTO, NEVER, 0 where not given. keep: 0 where not given."""

    def __init__(self, text: str = "") -> None:
        """Take the plugin's words; what is none of them is passed over."""
        words, _, self.checkpoint_dir = text.partition("checkpoint_dir=")
        told: Mapping[str, str] = {
            name: value for name, _, value in (word.partition("=") for word in words.split(" "))
        }
        self.text = text
        self.checkpoint = _number(told.get("checkpoint", "0"))
        self.before_end = _number(told.get("before_end", "0"))
        self.keep = _number(told.get("keep", "0"))
        self.skip_done = told.get("skip_done") == "1"
        self.name = told.get("name", "")
        self.fallback = told.get("fallback", "fail")


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        return 0
