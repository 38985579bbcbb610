"""Read the configuration file that a command names, and say its name in what is wrong with it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..config import Config, parse
from ..errors import ConfigError


def read(path: str) -> Config:
    """The Config of a TOML file. Raises ConfigError: no such file, not text, or a value that is not allowed."""
    return parse(read_text(path), path)


def read_text(path: str) -> str:
    """The text of a configuration file. Raises ConfigError."""
    try:
        return Path(path).read_text("utf-8")
    except OSError as e:
        raise ConfigError(f"{path}: {e.strerror}; configs/ has examples to start from") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file") from None


@contextmanager
def blaming(path: str) -> Iterator[None]:
    """A ConfigError of this block begins with the name of the file, as those of `read` do."""
    try:
        yield
    except ConfigError as e:
        raise ConfigError(f"{path}: {e}") from None
