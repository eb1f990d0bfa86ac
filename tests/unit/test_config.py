# SPDX-License-Identifier: GPL-2.0-or-later
"""plugstack.conf as the command reads it, and where images go by default."""

from __future__ import annotations

import os
import pwd
import re
from pathlib import Path

import pytest

from pycr import config
from pycr.errors import DirectoryError

LOADED = "/opt/pycr/lib/slurm/spank_cr.so"


def read(tmp_path: Path, text: str) -> config.Site:
    (tmp_path / "plugstack.conf").write_text(text)
    return config.read(str(tmp_path / "plugstack.conf"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# optional " + LOADED,
        "optional /usr/lib/other.so key=1",
        "optional",
        "sometimes " + LOADED,
        "include /nowhere/*.conf",
        "include",
        "\0\n\xff",
    ],
)
def test_not_loaded(tmp_path: Path, text: str) -> None:
    site = read(tmp_path, text)
    assert site.plugin is None
    assert site.plugstack == str(tmp_path / "plugstack.conf")


def test_missing_or_unreadable_file(tmp_path: Path) -> None:
    assert config.read(str(tmp_path / "missing")).plugin is None
    assert config.read(str(tmp_path)).plugin is None


def test_loaded_with_defaults(tmp_path: Path) -> None:
    site = read(tmp_path, f"\n# ours\n  optional\t{LOADED}  # here\n")
    assert (site.plugin, site.required, site.faults) == (LOADED, False, ())
    assert (site.checkpoint_dir, site.criu, site.ptrace) == ("%h/checkpoint", "", False)
    assert site.python == "/opt/pycr/bin/python3"
    assert read(tmp_path, f"required {LOADED}").required


def test_every_key(tmp_path: Path) -> None:
    site = read(
        tmp_path,
        f"optional spank_cr.so python=/p srun_cr=/s criu=/c checkpoint_dir=/d/%u ptrace=yes"
        f" parallel=2 ghost_limit=9\noptional {LOADED} criu=/second\n",
    )
    assert site.plugin == "spank_cr.so", "the first line counts"
    assert (site.python, site.criu, site.checkpoint_dir) == ("/p", "/c", "/d/%u")
    assert site.ptrace
    assert site.faults == ()


@pytest.mark.parametrize(
    "word",
    [
        "criu=relative",
        "python=",
        "ptrace=maybe",
        "parallel=-1",
        "parallel=",
        "ghost_limit=1234567890",
        "checkpoint_dir=relative",
        "checkpoint_dir=/a/%x",
        "checkpoint_dir=/a/100%",
        "checkpoint_dir=%u/x",
    ],
)
def test_values_that_the_plugin_will_not_take(tmp_path: Path, word: str) -> None:
    assert read(tmp_path, f"optional {LOADED} {word} ptrace=no").faults == (word,)


def test_unknown_words(tmp_path: Path) -> None:
    site = read(tmp_path, f"optional {LOADED} bogus=1 word criu=/a=b")
    assert site.faults == ("bogus=1", "word")
    assert site.criu == "/a=b"


@pytest.mark.parametrize(
    ("text", "value", "faults"),
    [
        ('checkpoint_dir="/a b"', '"/a', ('checkpoint_dir="/a', 'b"')),
        ("checkpoint_dir=/it's", "/it's", ()),
        ("checkpoint_dir=/a\\b", "/a\\b", ()),
        ("checkpoint_dir=/a#b", "/a", ()),
        ("checkpoint_dir=/a\r", "/a\r", ()),
        ("checkpoint_dir=/a\fb\x85\u2028c", "/a\fb\x85\u2028c", ()),
        ("checkpoint_dir=/a\0b", "/a", ()),
    ],
)
def test_words_are_what_slurm_takes_for_words(
    tmp_path: Path, text: str, value: str, faults: tuple[str, ...]
) -> None:
    """It knows no quotes, and takes no other blank than a space and a tab for one."""
    path = tmp_path / "plugstack.conf"
    path.write_bytes(f"optional {LOADED} {text}\n".encode())
    site = config.read(str(path))
    assert (site.checkpoint_dir, site.faults) == (value, faults)


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "plugstack.conf"
    path.write_bytes(b"optional " + LOADED.encode() + b" checkpoint_dir=/a\xff\n")
    assert os.fsencode(config.read(str(path)).checkpoint_dir) == b"/a\xff"


@pytest.mark.parametrize("plugin", ["/spank_cr.so", "/nowhere/spank_cr.so"])
def test_a_plugin_too_high_to_have_a_prefix(tmp_path: Path, plugin: str) -> None:
    assert read(tmp_path, f"optional {plugin}").python == ""


def test_same_keys_as_the_plugin() -> None:
    source = Path(__file__).parents[2] / "spank_cr" / "config.pxi"
    text = source.read_text()
    assert set(re.findall(r'b"(\w+)="', text)) == set(config.KEYS)


def test_includes(tmp_path: Path) -> None:
    parts = tmp_path / "plugstack.conf.d"
    parts.mkdir()
    (parts / "a.conf").write_text("optional /usr/lib/other.so\n")
    (parts / "b.conf").write_text(f"optional {LOADED} criu=/b\n")
    (parts / "c.conf").write_text(f"optional {LOADED} criu=/c\n")
    (parts / "ignored").write_text(f"optional {LOADED} criu=/ignored\n")
    for pattern in ("plugstack.conf.d/*.conf", f"{parts}/*.conf"):
        assert read(tmp_path, f"include {pattern}\n").criu == "/b"
    before = f"optional {LOADED} criu=/before\ninclude plugstack.conf.d/*.conf\n"
    assert read(tmp_path, before).criu == "/before"


def test_file_that_includes_itself(tmp_path: Path) -> None:
    site = read(tmp_path, f"include plugstack.conf\noptional {LOADED}\n")
    assert site.plugin == LOADED


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("%h/checkpoint", "/home/alice/checkpoint"),
        ("/scratch/%u/%j", "/scratch/alice/7"),
        ("/a%%b/%u%j", "/a%b/alice7"),
        ("/100%", "/100%"),
        ("/%x/%%u", "/%x/%u"),
    ],
)
def test_default_directory(pattern: str, path: str) -> None:
    site = config.Site(checkpoint_dir=pattern)
    assert site.default_dir("alice", "/home/alice", 7) == Path(path)


def test_which_image_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("option", "variable", "wish"):
        (tmp_path / name).mkdir()
    site = config.Site(checkpoint_dir=f"{tmp_path}/made/%u/%j")
    option, wish = str(tmp_path / "option"), str(tmp_path / "wish")
    monkeypatch.delenv("SLURM_CHECKPOINT_DIR", raising=False)
    assert config.image_dir(None, wish, site, 7) == Path(wish)
    monkeypatch.setenv("SLURM_CHECKPOINT_DIR", str(tmp_path / "variable"))
    assert config.image_dir(option, wish, site, 7) == Path(option)
    assert config.image_dir(None, wish, site, 7) == tmp_path / "variable"
    monkeypatch.setenv("SLURM_CHECKPOINT_DIR", "")
    made = config.image_dir(None, None, site, 7)
    assert made.is_dir()
    assert made.name == "7"
    assert made.stat().st_mode & 0o777 == 0o700
    monkeypatch.chdir(tmp_path)
    assert config.image_dir("option", None, site, 7) == Path(option)


def test_image_directory_that_will_not_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_CHECKPOINT_DIR", raising=False)
    (tmp_path / "file").write_text("x")
    site = config.Site(checkpoint_dir=f"{tmp_path}/file/%u")
    with pytest.raises(DirectoryError, match="no such directory"):
        config.image_dir(str(tmp_path / "missing"), None, site, 7)
    with pytest.raises(DirectoryError, match="not a directory"):
        config.image_dir(str(tmp_path / "file"), None, site, 7)
    with pytest.raises(DirectoryError, match="Not a directory"):
        config.image_dir(None, None, site, 7)


@pytest.mark.parametrize(
    ("pattern", "top"),
    [("/a/%u", "/a/{user}"), ("/a/%u/%j/b", "/a/{user}"), ("/%j", "/"), ("/a/x%j", "/a")],
)
def test_where_all_jobs_images_are(pattern: str, top: str) -> None:
    user = pwd.getpwuid(os.geteuid()).pw_name
    found = config.default_top(config.Site(checkpoint_dir=pattern))
    assert str(found) == top.format(user=user)


@pytest.mark.parametrize(
    ("allowed", "good"), [("", True), ("/nowhere:{here}", True), ("{here}/in", False), (":/", True)]
)
def test_allowed_directories(tmp_path: Path, allowed: str, good: bool) -> None:
    """With links followed; a directory whose name only begins so is another."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path)
    (tmp_path / "inner").mkdir()
    site = config.Site(allowed_dirs=allowed.format(here=tmp_path))
    config.check_allowed(tmp_path / "in", site)
    for place in (tmp_path / "in" / "link", tmp_path / "inner"):
        if good:
            config.check_allowed(place, site)
        else:
            with pytest.raises(DirectoryError, match=r"the site allows only .*/in \(allowed_dirs"):
                config.check_allowed(place, site)


def test_shortest_interval() -> None:
    site = config.Site(min_interval=60)
    assert [site.interval(seconds) for seconds in (1, 60, 90)] == [60, 60, 90]
    assert config.Site().interval(1) == 1
