"""A change of the public interface is deliberate."""

from public_api import FROZEN, describe


def test_the_public_interface_is_frozen() -> None:
    """If the change is meant: `python tests/helpers/public_api.py`, and a line in CHANGELOG.md."""
    assert describe().splitlines() == FROZEN.read_text(encoding="utf-8").splitlines()
