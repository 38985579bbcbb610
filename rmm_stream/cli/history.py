"""`rmm-stream history`: the numbered versions of a store. List, compare, ask about a train, put an older one in force."""

import argparse
import dataclasses
import json
import time

from ..client import ask
from ..client.mask_client import request_endpoint
from ..errors import ConfigError, DataError
from ..storage.comparison import bad_by_flag, turned, turned_pixels
from ..storage.in_force import in_force
from ..storage.journal import read_journal
from ..storage.mask_store import Making, MaskStore, Version, find_store
from ..storage.presence import Presence, find
from ..wire.masks import ReleaseRequest, Request, RollbackRequest
from .arguments import natural, seconds
from .watch import in_words


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "history",
        help="numbered versions of the mask: list, compare, put an older one in force",
        description="Without an action, list the versions of a store.",
    )
    parser.add_argument(
        "store", metavar="STORE", help="state directory of a service, or the detector's directory in it"
    )
    parser.add_argument("--json", action="store_true", help="machine-readable output, one JSON object per line")
    actions = parser.add_subparsers(dest="action", metavar="diff|rollback|release|at")
    diff = _action(actions, "diff", "which pixels turned between two versions", _diff)
    diff.add_argument("a", type=natural, metavar="A", help="the earlier version; 0: an all good mask")
    diff.add_argument("b", type=natural, metavar="B", help="the later version")
    diff.add_argument("--pixels", action="store_true", help="list them")
    back = _action(actions, "rollback", "put an older version in force, and keep to it until `release`", _rollback)
    back.add_argument("version", type=natural, metavar="V")
    release = _action(actions, "release", "end a rollback: fits are published again", _release)
    for each in (back, release):
        each.add_argument("--timeout", type=seconds, default=10.0, metavar="S", help="seconds to wait for the service")
    at = _action(actions, "at", "which version, and which updates after it, were in force for a train", _at)
    at.add_argument("train", type=natural, metavar="TRAIN")
    parser.set_defaults(act=_list)


def _action(actions, name: str, text: str, act) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="machine-readable output")
    parser.set_defaults(act=act)
    return parser


def run(args: argparse.Namespace) -> int:
    """Raises ConfigError (exit code 2) for a store or version that is not there, others (1) for what fails."""
    return args.act(find_store(args.store), args)


# list -----------------------------------------------------------------------------------------------------------------


def _list(store: MaskStore, args: argparse.Namespace) -> int:
    pinned, damaged = store.pinned, []
    for number in store.numbers():
        try:
            version = store.version(number)
        except DataError as e:
            damaged.append(str(e))
            continue
        print(json.dumps(_facts(version, pinned)) if args.json else _line(version, pinned), flush=True)
    if damaged:
        raise DataError("; ".join(damaged))
    if not store.numbers() and not args.json:
        print(f"{store.folder}: no version yet")
    return 0


def _facts(version: Version, pinned: int) -> dict:
    facts = dataclasses.asdict(version)
    bad, good = facts.pop("turned")
    return {**facts, "settings": json.loads(version.settings or "null"), "turned_bad": bad, "turned_good": good,
            "pinned": version.number == pinned}  # fmt: skip


def _line(version: Version, pinned: int) -> str:
    bad, good = version.turned
    reasons = [f"+{n} {_word(name)}" for name, n in version.newly_bad.items() if n]
    reasons += [f"-{n} {_word(name)}" for name, n in version.newly_good.items() if n]
    return (
        f"{version.number:6d}  {version.created}  {version.made_by}{', pinned' if version.number == pinned else ''}: "
        f"trains {version.first_train} to {version.last_train}, {version.frames} frames; "
        f"bad: {in_words({name: n for name, n in version.bad.items() if n})}; "
        f"+{bad} -{good} pixels ({', '.join(reasons) or 'no flag'})"
    )


def _word(flag: str) -> str:
    return flag.lower().replace("_", " ")


# diff -----------------------------------------------------------------------------------------------------------------


def _diff(store: MaskStore, args: argparse.Namespace) -> int:
    before, after = store.collapsed(args.a), store.collapsed(args.b)
    if not args.a:
        before = {module: flags & 0 for module, flags in after.items()}
    common = sorted(before.keys() & after.keys())
    if not common or any(before[module].shape != after[module].shape for module in common):
        raise ConfigError(f"versions {args.a} and {args.b} are not of the same modules, so there is nothing to compare")
    for module in common:
        made = turned(before[module], after[module])
        facts = {
            "module": module,
            "turned_bad": made.bad,
            "turned_good": made.good,
            "newly_bad": made.newly_bad,
            "newly_good": made.newly_good,
            "bad": bad_by_flag(after[module]),
        }
        if args.json:
            print(json.dumps(facts), flush=True)
            continue
        got, lost = ({name: n for name, n in each.items() if n} for each in (made.newly_bad, made.newly_good))
        print(f"module {module}: +{made.bad} -{made.good} pixels; got: {in_words(got)}; lost: {in_words(lost)}")
    if args.pixels:
        for pixel in turned_pixels(before, after):
            facts = {**pixel._asdict(), "before": _names(pixel.before), "after": _names(pixel.after)}
            text = "module {module} ({ss}, {fs}): {0} -> {1}"
            was, now = (" ".join(map(_word, facts[key])) or "good" for key in ("before", "after"))
            print(json.dumps(facts) if args.json else text.format(was, now, **pixel._asdict()), flush=True)
    return 0


def _names(flags) -> list[str]:
    return [flag.name for flag in flags]


# at -------------------------------------------------------------------------------------------------------------------


def _at(store: MaskStore, args: argparse.Namespace) -> int:
    found = in_force(store, args.train)
    if args.json:
        print(json.dumps(dataclasses.asdict(found)))
        return 0
    what = f"version {found.version}" if found.version else "no version yet"
    print(f"train {found.train}: {what}, and {len(found.updates)} updates after it")
    for update in found.updates:
        text = (
            "  module {module} stage {gain_stage} cell {cell}: +{newly_bad} -{newly_good}, "
            "after train {after_train}, sequence {sequence}, epoch {epoch}"
        )
        print(text.format(**update))
    if not found.later:
        print("nothing was published since: later trains have the same mask")
    if found.gone:
        print(f"versions {found.gone[0]} to {found.gone[1]} are removed; one of them may have been in force")
    if found.damaged or found.lost:
        print(f"not complete: {found.lost} updates could not be written down, {found.damaged} lines cannot be read")
    return 0


# rollback, release ----------------------------------------------------------------------------------------------------


def _rollback(store: MaskStore, args: argparse.Namespace) -> int:
    old = store.version(args.version)
    service = find(store.folder.parent)
    if service is None:
        made = store.again(old, store.read(args.version), _last_moment(store))
        store.pin(made)
        said = "no service runs on this store; the next start puts it in force"
    else:
        least = _ask(service, RollbackRequest(args.version), args.timeout)["version"]
        made = _wait_for(store, least, f"rollback of {args.version}", args.timeout)
        said = f"in force at {service.requests}"
    if args.json:
        print(json.dumps({"version": made, "of": args.version, "running": service is not None}))
    else:
        print(f"version {made} equals version {args.version}: {said}; fits change nothing until `release`")
    return 0


def _release(store: MaskStore, args: argparse.Namespace) -> int:
    pinned, service = store.pinned, find(store.folder.parent)
    if service is None:
        store.release()
    else:
        pinned = _ask(service, ReleaseRequest(), args.timeout)["version"]
    if args.json:
        print(json.dumps({"released": pinned, "running": service is not None}))
    elif pinned:
        print(f"version {pinned} is not pinned any more; what the fits say is published again")
    else:
        print("nothing was pinned")
    return 0


def _ask(service: Presence, request: Request, timeout_s: float) -> dict:
    return ask(request_endpoint("tcp://127.0.0.1:0", service.requests), request, timeout_s)


def _wait_for(store: MaskStore, least: int, made_by: str, timeout_s: float) -> int:
    """Until the service has written such a version, `least` or a later one. Returns its number. Raises TimeoutError."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        for number in store.numbers():
            if number >= least and store.version(number).made_by == made_by:
                return number
        time.sleep(0.02)
    raise TimeoutError(f"the service has not written the version in {timeout_s:g} s; its alarms and its log say why")


def _last_moment(store: MaskStore) -> Making:
    """When the store was last written to, in trains: a rollback without a service comes right after."""
    newest = store.newest
    lines = read_journal(store.journal(newest))
    last = lines.updates[-1]["after_train"] if lines.updates else store.version(newest).last_train
    last = lines.seen or last
    return Making("", last, last)
