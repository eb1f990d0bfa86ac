# SPDX-License-Identifier: GPL-2.0-or-later
"""What keeps a step or a job going, as it was given to srun or sbatch: the plugin's words.

    checkpoint=1800 before_end=-1 keep=3 skip_done=1 name=main fallback=fail checkpoint_dir=/a b

spank_cr/options.pxi (cr_settings) writes them, into SRUN_CR_SETTINGS or a file beside srun_cr's
socket; a word is missing where the option was not given. An srun_cr that was started by hand needs
some before its srun has read them: it looks for those itself (by_hand()). Imported on srun_cr's
way: no modules.
"""

from __future__ import annotations

AUTO = -1  # in place of seconds
NEVER = -2
FLAGS = ("--cr", "--cr-skip-done", "--cr-before-end")  # take no value, or only behind a "="
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


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


def by_hand(argv: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Return the name, fallback and skip_done that srun will be given: in its words, up to the
    command's, or else in its variables."""
    settings = Settings()
    settings.fallback = environment.get("SLURM_CR_FALLBACK") or settings.fallback
    for option, value in options(argv):
        if option == "--cr-name":
            settings.name = value
        elif option == "--cr-fallback":
            settings.fallback = value
        elif option == "--cr-skip-done":
            settings.skip_done = True
    return settings


def options(argv: Sequence[str]) -> list[tuple[str, str]]:
    """Return the options that srun's words begin with, each with its value.

    Which of srun's own take none is not known here: a command behind such a one is taken for its
    value, and the words behind that are looked at up to the first that is no option.
    """
    found: list[tuple[str, str]] = []
    waiting = False
    for word in argv:
        if word == "--":
            break
        if word.startswith("-"):
            option, equals, value = word.partition("=")
            found.append((option, value))
            waiting = not equals and (word.startswith("--") or len(word) == 2)
            waiting = waiting and word not in FLAGS
        elif waiting:
            found[-1] = (found[-1][0], word)
            waiting = False
        else:
            break
    return found
