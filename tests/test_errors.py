from __future__ import annotations

import pytest

from emvfm import errors


def test_message_is_one_line_with_what_where_got_expected_and_next_step() -> None:
    error = errors.UsageError(
        "unknown\nhead", where="--head", got="'unet'", expected="linear or deconv", todo="see --help"
    )
    assert str(error) == "--head: unknown head (got 'unet', expected linear or deconv); see --help"


@pytest.mark.parametrize(
    ("kind", "code", "builtin"),
    [
        (errors.EmvfmError, 1, Exception),
        (errors.CorruptError, 1, ValueError),
        (errors.UsageError, 2, ValueError),
        (errors.MissingError, 3, FileNotFoundError),
        (errors.RefusedError, 4, ValueError),
    ],
)
def test_each_error_has_its_exit_code_and_its_builtin(kind: type, code: int, builtin: type) -> None:
    error = kind("gone", where="here")
    assert error.exit_code == code
    assert isinstance(error, builtin)
    assert str(error) == "here: gone"
