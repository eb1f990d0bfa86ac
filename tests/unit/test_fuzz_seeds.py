# SPDX-License-Identifier: GPL-2.0-or-later
"""Every seed of the fuzz targets in Python, without a fuzzer: the made ones and the kept ones."""

from __future__ import annotations

import pytest

from tests import fuzz


@pytest.mark.parametrize("name", fuzz.PYTHON)
def test_every_seed(name: str) -> None:
    target = fuzz.target(name)
    made = {f"made {number}": data for number, data in enumerate(target.made())}
    kept = fuzz.seeds(name)
    assert made
    assert kept, f"no seeds of {name} are kept"
    for label, data in {**made, **kept}.items():
        try:
            target.check(data)
        except Exception as error:
            error.add_note(f"seed: {label}") if hasattr(error, "add_note") else None
            raise
