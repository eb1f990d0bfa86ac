# SPDX-License-Identifier: GPL-2.0-or-later
"""The site's settings, from the plugin's own line in plugstack.conf, and where images go by them.

spank_cr/config.pxi reads the same keys in C; the plugin checks them, this reads them for the
command on a login node. One file of settings, none of pycr's own.
"""

from __future__ import annotations

import glob
import os
import pwd
import re
from pathlib import Path
from typing import NamedTuple

from pycr.errors import DirectoryError, NoSuchUser
from pycr.slurm import commands

PLUGIN = "spank_cr.so"
DEFAULT_DIR = "%h/checkpoint"
PATH_SIZE = 4096  # as long as the plugin takes a value for, with its NUL
# key -> what its value must look like, as the plugin has it
KEYS = {
    "python": "/.*",
    "srun_cr": "/.*",
    "criu": "/.*",
    "checkpoint_dir": "(/|%h)([^%]|%[uhj%])*",
    "ptrace": "yes|no",
    "parallel": "[0-9]{1,9}",
    "ghost_limit": "[0-9]{1,9}",
    "min_interval": "[0-9]{1,9}",
    "max_size": "[0-9]{1,9}",
    "node_checkpoints": "[0-9]{1,9}",
    "fs_checkpoints": "[0-9]{1,9}",
    "keep": "[0-9]{1,9}",
    "max_wait": "[0-9]{1,9}",
    "after_checkpoint": "/.*",
    "allowed_dirs": "/.*",
}
COUNTS = ("min_interval", "max_size", "node_checkpoints", "fs_checkpoints", "keep", "max_wait")
KEEP = 2  # periodic checkpoints


class Site(NamedTuple):
    """The settings in force. plugin is None where plugstack.conf does not load it.

    min_interval: seconds. max_size: of one checkpoint, in MiB. node_checkpoints, fs_checkpoints: at
    most so many at once, on a node and on a file system. keep: periodic ones, of a step. max_wait:
    seconds, where the user says none. 0: no limit, or the default. after_checkpoint: a program.
    allowed_dirs: images may be below these only, with colons between them; "": anywhere.
    """

    plugin: str | None = None
    plugstack: str = ""
    required: bool = False
    checkpoint_dir: str = DEFAULT_DIR
    criu: str = ""
    python: str = ""
    ptrace: bool = False
    min_interval: int = 0
    max_size: int = 0
    node_checkpoints: int = 0
    fs_checkpoints: int = 0
    keep: int = KEEP
    max_wait: int = 0
    after_checkpoint: str = ""
    allowed_dirs: str = ""
    faults: tuple[str, ...] = ()

    def interval(self, seconds: int) -> int:
        """Return the seconds between periodic checkpoints, for those that were asked for."""
        return max(seconds, self.min_interval)

    def default_dir(self, user: str, home: str, job_id: int) -> Path:
        """Return the default image directory of a user's job (%u, %h, %j and %% filled in)."""
        values = {"%u": user, "%h": home, "%j": str(job_id), "%%": "%"}
        text = self.checkpoint_dir
        out = ""
        while text:
            out += values.get(text[:2], text[:1])
            text = text[2:] if text[:2] in values else text[1:]
        return Path(out)


def read(plugstack: str) -> Site:
    """Return the settings from a plugstack.conf, its includes followed as Slurm does.

    A file that is not there or not readable has nothing in it: Slurm takes it so.
    """
    for words in _lines(plugstack, 0):
        if len(words) < 2 or words[0] not in ("required", "optional"):
            continue
        if os.path.basename(words[1]) != PLUGIN:
            continue
        settings = dict(word.split("=", 1) for word in words[2:] if "=" in word)
        return Site(
            plugin=words[1],
            plugstack=plugstack,
            required=words[0] == "required",
            checkpoint_dir=settings.get("checkpoint_dir", DEFAULT_DIR),
            criu=settings.get("criu", ""),
            python=settings.get("python", _interpreter(words[1])),
            ptrace=settings.get("ptrace") == "yes",
            **{name: int(settings[name]) for name in COUNTS if _is_good(_word(settings, name))},
            after_checkpoint=settings.get("after_checkpoint", ""),
            allowed_dirs=settings.get("allowed_dirs", ""),
            faults=tuple(word for word in words[2:] if not _is_good(word)),
        )
    return Site(plugstack=plugstack)


def _word(settings: dict[str, str], name: str) -> str:
    return f"{name}={settings.get(name, '')}"


def _is_good(word: str) -> bool:
    """Tell whether the plugin will take an argument."""
    key, equals, value = word.partition("=")
    return (
        bool(equals)
        and key in KEYS
        and len(os.fsencode(value)) < PATH_SIZE
        and re.fullmatch(KEYS[key], value, re.DOTALL) is not None
    )


def _interpreter(plugin: str) -> str:
    """Return the helper's interpreter by default: that of the prefix the plugin lies in."""
    prefix = os.path.realpath(plugin).rsplit("/", 3)
    return f"{prefix[0]}/bin/python3" if "/" in plugin and len(prefix) == 4 else ""


def _lines(path: str, depth: int) -> list[list[str]]:
    try:
        text = os.fsdecode(Path(path).read_bytes())
    except OSError:
        return []
    found: list[list[str]] = []
    for line in text.split("\n"):
        # As Slurm (plugstack.c) does: no quotes, no backslashes, no other blanks; a C string.
        words = line.partition("\0")[0].partition("#")[0].replace("\t", " ").split(" ")
        words = [word for word in words if word]
        if len(words) == 2 and words[0] == "include":
            if depth < 8:
                pattern = os.path.join(os.path.dirname(path), words[1])
                for name in sorted(glob.glob(pattern)):
                    found.extend(_lines(name, depth + 1))
        elif words:
            found.append(words)
    return found


def site() -> Site:
    """Return the site's settings, from the plugstack.conf that Slurm reads here.

    Slurm names it only where it is not beside slurm.conf. Raises SlurmError.
    """
    settings = commands.configuration()
    named = settings.get("PlugStackConfig", "(null)")
    if named != "(null)":
        return read(named)
    confs = [os.environ.get("SLURM_CONF", ""), settings.get("SLURM_CONF", "")]
    places = [os.path.dirname(conf) for conf in confs if conf.startswith("/")]
    paths = [f"{place}/plugstack.conf" for place in (*places, "/etc/slurm", "/run/slurm/conf")]
    return read(next((path for path in paths if os.path.exists(path)), paths[0]))


def check_directory(path: Path) -> None:
    """Refuse an image directory that is missing or cannot be written. Raises DirectoryError."""
    if not os.path.isdir(path):
        what = "not a directory" if os.path.exists(path) else "no such directory"
        raise DirectoryError(f"image directory {path}: {what}")
    if not os.access(path, os.W_OK | os.X_OK):
        raise DirectoryError(f"image directory {path}: you cannot write to it")


def check_allowed(path: Path, settings: Site) -> None:
    """Refuse an image directory that is not below one of allowed_dirs, links followed.

    Raises DirectoryError.
    """
    allowed = [each for each in settings.allowed_dirs.split(":") if each]
    real = Path(os.path.realpath(path))
    tops = [Path(os.path.realpath(each)) for each in allowed]
    if allowed and not any(real == top or top in real.parents for top in tops):
        raise DirectoryError(
            f"image directory {path}: the site allows only {' and '.join(allowed)}"
            " (allowed_dirs in plugstack.conf)"
        )


def image_dir(option: str | None, wish: str | None, settings: Site, job_id: int) -> Path:
    """Return the image directory: the option's, the variable's, the step's own, or the site's.

    It must be one that the site allows. Only the site's default is made when it is missing.
    Raises DirectoryError.
    """
    named = option or os.environ.get("SLURM_CHECKPOINT_DIR") or wish
    if named and (named != wish or not is_default(wish, settings, job_id)):
        check_directory(Path(named))
        check_allowed(Path(named), settings)
        return Path(named).absolute()
    path = default_dir(settings, job_id)
    check_allowed(path, settings)
    try:
        path.mkdir(0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise DirectoryError(f"{path}: {error.strerror}") from error
    check_directory(path)
    return path


def is_default(wish: str, settings: Site, job_id: int) -> bool:
    """Tell whether a step's own image directory is the site's default, as the plugin has it."""
    try:
        return Path(wish) == default_dir(settings, job_id)
    except NoSuchUser:
        return False


def default_top(settings: Site) -> Path:
    """Return the directory that has this user's default image directories of all jobs, or is it.

    Raises NoSuchUser.
    """
    whole = settings.checkpoint_dir.split("/")
    above = next((at for at, part in enumerate(whole) if "%j" in part), len(whole))
    return default_dir(settings._replace(checkpoint_dir="/".join(whole[:above]) or "/"), 0)


def default_dir(settings: Site, job_id: int) -> Path:
    """Return the site's default image directory for a job of this user's. Raises NoSuchUser."""
    try:
        entry = pwd.getpwuid(os.geteuid())
    except KeyError as error:
        raise NoSuchUser(
            f"no such user: uid {os.geteuid()} is not known on this host ({os.uname().nodename}),"
            " so that there is no default image directory: name one with --image-dir"
        ) from error
    return settings.default_dir(entry.pw_name, entry.pw_dir, job_id)
