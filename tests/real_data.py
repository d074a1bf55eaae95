"""Real data, which a test may do without."""

import pytest


def there(path, what):
    """The path, or a skip that says what is missing."""
    if not path.exists():
        pytest.skip(f"no {what} at {path}")
    return path
