"""Logging: plain text on a terminal, one JSON object per line under systemd.

Records carry their facts as keys: `log.warning("...", extra={"event": "contradiction"})`. Those who may have much to say
say it through `sources.complaints`, once a minute of a kind.
"""

import json
import logging
import os
import sys

#: Keys of `extra` that are written, and as what, in this order. Never frame contents, never secrets.
#: `module` of a record is Python's word for the file, so ours is called detector_module.
FIELDS = {
    "event": "event",
    "detector_module": "module",
    "generation": "generation",
    "version": "version",
    "train": "train",
}


class JsonLines(logging.Formatter):
    """One JSON object per line: ts, level, logger, message and the known fields."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "ts": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: getattr(record, key) for key, name in FIELDS.items() if hasattr(record, key)}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class PlainText(logging.Formatter):
    """time level message (field value, ...)"""

    def __init__(self):
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        said = [
            f"{name} {getattr(record, key)}" for key, name in FIELDS.items() if hasattr(record, key) and key != "event"
        ]
        return super().formatMessage(record) + (f" ({', '.join(said)})" if said else "")


def under_systemd() -> bool:
    """Whether stderr goes to the journal."""
    return bool(os.environ.get("JOURNAL_STREAM"))


def setup(level: str = "info") -> None:
    """Send all records to stderr in the form that suits it."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if under_systemd() else PlainText())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
