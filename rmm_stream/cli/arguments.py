"""Values of options, checked while the command line is read: what is wrong is one line and exit code 2."""

import argparse
import math

LONGEST_S = 1e6  # longer waits overflow the milliseconds of a poll


def seconds(text: str) -> float:
    """A duration in s. Raises ArgumentTypeError for what is not one: nan, inf, a negative number, a word."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= LONGEST_S:  # false for nan
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration: expected seconds, 0 to {LONGEST_S:,.0f}")
    return value


def stage_number(text: str) -> int:
    """A gain stage by its number; its name is known to the service alone. Raises ArgumentTypeError."""
    if not (text.isascii() and text.isdecimal() and int(text) <= 7):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not the number of a gain stage: expected 0 to 7, 0 = most sensitive"
        )
    return int(text)


def natural(text: str) -> int:
    """A number of something counted from 0. Raises ArgumentTypeError."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 20):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number: expected 0, 1, 2, ...")
    return int(text)
