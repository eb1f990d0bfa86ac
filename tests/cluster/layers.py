# SPDX-License-Identifier: GPL-2.0-or-later
"""The cache of read-only layers, and how a command is run to make one.

Owns: the cache directory (PYCR_CACHE, by default /var/cache/pycr) and building in an overlay.
A layer appears under its final name by one rename, or not at all.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from . import syscalls
from .state import ClusterError, file_lock, holds_overlay_layers

SUFFIX = ".tmp"
CLEAN_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def cache_dir() -> Path:
    """Return the cache directory, made if need be."""
    path = Path(os.environ.get("PYCR_CACHE") or "/var/cache/pycr").resolve()
    path.mkdir(mode=0o755, parents=True, exist_ok=True)
    return path


def run_build(command: list[str], what: str, env: dict[str, str] | None = None) -> None:
    """Run COMMAND in its own mount and PID namespace; when we die, all of it dies.

    Its output is shown only when it fails: then the tail of it is in the ClusterError.
    """
    wrapped = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--", *command]
    done = subprocess.run(
        wrapped,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "LC_ALL": "C.UTF-8", **(env or {})},
        umask=0o022,
        preexec_fn=syscalls.die_with_parent,
    )
    if done.returncode != 0:
        tail = "\n".join("  " + line for line in done.stdout.splitlines()[-40:])
        raise ClusterError(f"{what} failed (exit status {done.returncode}):\n{tail}")


def build_layer(
    name: str,
    lower: tuple[Path, ...],
    script: str,
    what: str,
    sources: Mapping[str, Path] | None = None,
    keep: str | None = None,
    network: bool = False,
) -> Path:
    """Return the cached layer NAME, running SCRIPT in a chroot over LOWER to make it.

    sources: host files to copy to /src for the script, by their path there. keep: the one path,
    relative to the root, the layer is to hold. network: give the script the host's resolv.conf.
    """
    cache = cache_dir()
    target = cache / name
    if target.exists():
        return target
    if not holds_overlay_layers(cache):
        raise ClusterError(f"{cache} cannot hold overlay layers: set PYCR_CACHE to another disk")
    with building(target) as directory:
        if directory is None:
            return target
        for part in ("upper", "work", "root"):
            (directory / part).mkdir()
            (directory / part).chmod(0o755)
        for place, path in (sources or {}).items():
            copy = directory / "src" / place
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
            # Not as private as they may be in the checkout: they end up installed.
            copy.chmod(0o755 if path.stat().st_mode & 0o111 else 0o644)
        outer = _mount_script(directory, lower, network)
        inner = "set -eu; umask 022; " + script
        env = {"PATH": CLEAN_PATH, "HOME": "/root", "TMPDIR": "/tmp"}
        # The caller's PIP_* settings are for the host's Python; its proxies are for apt.
        hidden = [f"-u{key}" for key in os.environ if key.startswith(("PIP_", "PYTHON"))]
        settings = [f"{key}={value}" for key, value in env.items()]
        chroot = ["env", *hidden, *settings, "chroot", str(directory / "root"), "sh", "-c", inner]
        run_build(["sh", "-c", f"{outer}exec {shlex.join(chroot)}"], what)
        _trim(directory / "upper", keep)
        (directory / "upper").rename(target)
    return target


@contextlib.contextmanager
def building(target: Path) -> Iterator[Path | None]:
    """Provide a directory to build TARGET in; None when somebody else has built it meanwhile.

    Whatever is left in it at the end is deleted. It is locked meanwhile, which tells sweep() that
    its builder lives.
    """
    directory = target.with_name(target.name + SUFFIX)
    with file_lock(target.with_name(target.name + ".lock"), f"another build of {target}"):
        if target.exists():
            yield None
            return
        with _sweeping():
            if directory.exists():
                shutil.rmtree(directory)
            directory.mkdir()
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(fd, fcntl.LOCK_EX)
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=not directory.exists())
            os.close(fd)


def sweep() -> None:
    """Delete what killed builds left in the cache."""
    leftovers = [*cache_dir().glob(f"*{SUFFIX}"), *cache_dir().glob("*.lock")]
    if not leftovers:
        return
    with _sweeping():
        for path in leftovers:
            with contextlib.suppress(FileNotFoundError):
                fd = os.open(path, os.O_RDONLY)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if path.is_dir():
                        shutil.rmtree(path)
                    else:
                        path.unlink()
                except BlockingIOError:
                    pass  # Its builder lives.
                finally:
                    os.close(fd)


def _sweeping() -> contextlib.AbstractContextManager[None]:
    return file_lock(cache_dir() / ".sweep.lock", "another cluster's clean-up")


def _mount_script(directory: Path, lower: tuple[Path, ...], network: bool) -> str:
    root = shlex.quote(str(directory / "root"))
    options = overlay_options(lower, directory / "upper", directory / "work")
    script = f"set -eu; umask 022; mount -t overlay overlay -o {shlex.quote(options)} {root}; "
    script += f"mount -t proc proc {root}/proc; mount --rbind /dev {root}/dev; "
    script += f"mount -t tmpfs -o mode=1777 tmpfs {root}/tmp; "
    source = directory / "src"
    if source.exists():
        script += f"mkdir -p {root}/src; cp -a {shlex.quote(str(source))}/. {root}/src/; "
    if network:
        script += f"rm -f {root}/etc/resolv.conf; cp -L /etc/resolv.conf {root}/etc/; "
    return script


def overlay_options(lower: tuple[Path, ...], upper: Path, work: Path) -> str:
    """Return overlayfs mount options for LOWER (topmost first) below UPPER."""

    def quoted(path: Path) -> str:
        # Separators within overlayfs options.
        text = str(path).replace("\\", "\\\\").replace(":", "\\:")
        return text.replace(",", "\\,")

    lowers = ":".join(quoted(path) for path in lower)
    return f"lowerdir={lowers},upperdir={quoted(upper)},workdir={quoted(work)}"


def _trim(upper: Path, keep: str | None) -> None:
    """Delete from UPPER what is not KEEP (a relative path), or what the build only needed."""
    if keep is None:
        for name in ("src", "etc/resolv.conf"):
            path = upper / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.exists() or path.is_symlink():
                path.unlink()
        return
    first, _, rest = keep.partition("/")
    for entry in upper.iterdir():
        if entry.name == first:
            if rest:
                _trim(entry, rest)
        elif entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
