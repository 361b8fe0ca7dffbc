from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emvfm.provenance import canonical_json, digest, environment, peak_memory_mib, sha256_file

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), plain, max_size=5))
def test_digest_does_not_depend_on_the_order_of_keys(value: dict) -> None:
    assert digest(value) == digest(dict(reversed(value.items())))


def test_digest_is_the_same_in_another_process_with_another_hash_seed() -> None:
    code = "from emvfm.provenance import digest; print(digest({'b': {1.5, 2.5}, 'a': (1, None, 'ü')}))"
    env = {**os.environ, "PYTHONHASHSEED": "123"}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert out.stdout.strip() == digest({"a": (1, None, "ü"), "b": {2.5, 1.5}})


def test_canonical_json_takes_numpy_values_and_refuses_nan() -> None:
    assert canonical_json({"a": np.float64(0.5), "b": np.arange(2), "c": Path("x/y")}) == (
        '{"a":0.5,"b":[0,1],"c":"x/y"}'
    )
    with pytest.raises(ValueError, match="Out of range"):
        canonical_json(float("nan"))


def test_file_digest_equals_hashlib(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"x" * 3_000_001)
    assert sha256_file(file) == hashlib.sha256(file.read_bytes()).hexdigest()


def test_environment_names_versions_without_importing_torch() -> None:
    code = "import sys, emvfm.provenance as p; p.environment(); print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
    assert environment()["packages"]["numpy"] == np.__version__


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs /proc")
def test_peak_memory_is_that_of_the_process_itself_not_of_the_one_that_started_it() -> None:
    held = np.ones(60_000_000, np.uint8)
    code = (
        "from emvfm.provenance import peak_memory_mib\n"
        "before = peak_memory_mib()\n"
        "grown = bytearray(b'x') * 80_000_000\n"
        "print(before, peak_memory_mib())"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    before, after = map(float, done.stdout.split())
    own = peak_memory_mib()
    assert own is not None
    assert own > held.nbytes / 2**20
    assert before < own
    assert 70 < after - before < 90
