"""`rmm-stream batch`: a mask from files. Reads what the operator asked for, shows progress, prints what came of it."""

import argparse
import json
import logging
import os
import re
import signal
import tomllib
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from glob import glob
from math import ceil
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from ..batch import CELLS_PER_JOB, Input, Made, frames_to_read, make_masks
from ..config import Config, Detector, Features, parse
from ..detectors import DetectorSpec
from ..errors import ConfigError, DataError
from ..frames import Exposure, Illumination
from ..mask import BadPixel
from ..rmm import MaskMaker
from ..sources.frame_stack import LAYOUTS, files_of, inspect, locate
from ..storage.mask_file import Provenance, write_mask
from ..storage.picture import write_picture
from ..storage.static_mask import read_static_masks
from . import logs
from .configuration import read_text
from .outputs import check_apart, check_writable
from .progress import progress

log = logging.getLogger(__name__)

FILES = "[STAGE=]FILE[:PATH][[a:b]]; a pattern such as run/*.h5 is fine, [a:b] are frames a to b - 1"


def add_parser(subparsers) -> None:
    """Declare the command."""
    command = subparsers.add_parser(
        "batch",
        help="a mask from files",
        description="Make a bad-pixel mask from files, with the same mask maker that runs live.",
        epilog="rmm-stream batch --detector agipd1m --dark high=dark0.h5 medium=dark1.h5 low=dark2.h5 -o mask.h5",
    )
    command.add_argument("config", nargs="?", metavar="CONFIG.toml", help="detector, modules, cells and settings")
    command.add_argument("--detector", metavar="NAME", help="known name, or a TOML file with a [detector] section")
    for kind in Illumination:
        if kind is not Illumination.UNKNOWN:
            command.add_argument(f"--{kind.value}", nargs="+", action="extend", default=[], metavar="FILE", help=FILES)
    command.add_argument("-o", "--output", required=True, metavar="mask.h5", help="mask file to write")
    command.add_argument("--plot", metavar="mask.png", help="also draw the mask")
    command.add_argument("--gain-stage", metavar="STAGE", help="name or index, for files without STAGE=")
    command.add_argument("--module", type=int, nargs="+", action="extend", metavar="N", help="these modules, from 0")
    command.add_argument("--axes", default="", choices=("", *LAYOUTS), metavar="WORDS", help=f"{', '.join(LAYOUTS)}")
    command.add_argument("--jobs", type=int, metavar="N", help="processes; default: one per processor core")
    command.add_argument("--scheduler", metavar="tcp://...", help="Dask scheduler; not available yet")
    command.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Exit code 0. Raises RmmError or OSError, whose line and exit code main prints."""
    logs.setup()
    if args.scheduler:
        raise ConfigError("--scheduler needs rmm-stream[cluster], not available yet; use --jobs N on this machine")
    config = _config(args)
    spec = config.detector.spec()
    for path in filter(None, (args.output, args.plot)):
        check_writable(path)
    inputs = _inputs(args, spec)
    _check_apart(args, config, inputs)
    modules = _modules(args, config, inputs)
    cells = config.cells
    jobs = _jobs(args.jobs, len(modules) * len(cells))
    static = read_static_masks(config.policy.static_masks, spec) or None
    total = frames_to_read(spec, inputs, modules, cells)
    with progress("frames", total) as report, _executor(jobs, spec, modules, config) as executor:
        try:
            made = make_masks(
                spec,
                config.settings,
                inputs,
                modules,
                cells,
                executor,
                report.at,
                static=static,
                cells_per_job=max(1, min(CELLS_PER_JOB, ceil(len(modules) * len(cells) / jobs))),
            )
        except BrokenProcessPool:
            raise DataError("a worker process was killed, most likely for want of memory: use fewer --jobs") from None
    _check_judged(made, config)
    write_mask(args.output, spec, made.masks, cells=cells, provenance=Provenance(settings_digest=config.digest))
    if args.plot:
        write_picture(args.plot, made.masks, f"{spec.name}, {Path(args.output).name}")
    found = _summary(made, spec, config, args)
    print(json.dumps(found) if args.json else _in_words(found))
    for line in _lacking(made, spec, config):
        log.warning("%s", line)
    for words in made.moved.values():
        log.warning("%s: its darks show two states of the detector; give those of one", words)
    return 0


# ---- what was asked for --------------------------------------------------------------------------------------------


def _config(args: argparse.Namespace) -> Config:
    """CONFIG.toml, else the file of --detector, else the defaults. Beside a CONFIG, --detector is the detector alone."""
    described = bool(args.detector) and args.detector.endswith(".toml")
    file = args.config or (args.detector if described else None)
    if file:
        config = _read(file)
        if args.config and args.detector:
            detector = _read(args.detector).detector if described else Detector(name=args.detector)
            config = replace(config, detector=detector)
    elif args.detector:
        config = Config(detector=Detector(name=args.detector), features=_every_train(Features()))
    else:
        raise ConfigError("which detector? Give a CONFIG.toml or --detector NAME")
    spec = config.detector.spec()
    if config.cells.stop > spec.cells:
        raise ConfigError(f"{file}: shards.cells end at {config.cells.stop - 1}; {spec.name} has {spec.cells} cells")
    return config


def _read(path: str) -> Config:
    """The Config of a file. Where it does not set every_train, F6 judges every train: files do not fall behind."""
    text = read_text(path)
    config = parse(text, path)
    if "every_train" in tomllib.loads(text).get("features", {}).get("lit", {}):
        return config
    return replace(config, features=_every_train(config.features))


def _every_train(features: Features) -> Features:
    return replace(features, lit=replace(features.lit, every_train=1))


def _inputs(args: argparse.Namespace, spec: DetectorSpec) -> list[Input]:
    """Every file, looked into once, with its exposure."""
    default = _stage(args.gain_stage, spec) if args.gain_stage else (0 if len(spec.stages) == 1 else None)
    module = args.module[0] if args.module and len(args.module) == 1 else None
    inputs = []
    for illumination in (Illumination.DARK, Illumination.FLAT, Illumination.SAMPLE):
        for text in getattr(args, illumination.value):
            named, text = _split_stage(text, spec)
            exposure = Exposure(illumination, default if named is None else named)
            for one in _expand(text):
                inputs.append(Input(inspect(locate(one), spec, module=module, axes=args.axes), exposure))
    if not inputs:
        raise ConfigError("no frames: give --dark FILE, --flat FILE or --sample FILE")
    return inputs


def _split_stage(text: str, spec: DetectorSpec) -> tuple[int | None, str]:
    """ "medium=run.h5" -> (1, "run.h5"); a file name that has a = of its own stays whole."""
    found = re.fullmatch(r"([^=/:\[]+)=(.+)", text)
    if not found or Path(text).exists():
        return None, text
    return _stage(found[1], spec), found[2]


def _stage(word: str, spec: DetectorSpec) -> int:
    if word in spec.stages:
        return spec.stages.index(word)
    if word.isdecimal() and int(word) < len(spec.stages):
        return int(word)
    known = ", ".join(f"{name} or {i}" for i, name in enumerate(spec.stages))
    raise ConfigError(f"gain stage {word!r}: {spec.name} has {known}")


def _expand(text: str) -> list[str]:
    """The locations of a pattern in the file name, in the order of their names; the text itself where it has none."""
    file = text if Path(text).exists() else locate(text).path
    if Path(file).exists() or not re.search(r"[*?]", file):
        return [text]
    files = sorted(glob(file))
    if not files:
        raise ConfigError(f"{file}: no file matches")
    return [name + text[len(file) :] for name in files]


def _modules(args: argparse.Namespace, config: Config, inputs: list[Input]) -> list[int]:
    """Those of --module, else of the configuration, else all that have frames."""
    spec = config.detector.spec()
    if args.module:
        for module in args.module:
            if not 0 <= module < spec.modules:
                raise ConfigError(f"--module {module}: {spec.name} has modules 0 to {spec.modules - 1}")
        return sorted(set(args.module))
    if config.shards.modules is not None:
        return sorted(set(config.modules))
    return [m for m in range(spec.modules) if any(given.stack.has(m) for given in inputs)]


def _check_apart(args: argparse.Namespace, config: Config, inputs: list[Input]) -> None:
    """No output may take the place of a file that is read, or of another output."""
    read = [("an input", path) for path in dict.fromkeys(path for given in inputs for path in files_of(given.stack))]
    read += [("the configuration", args.config)] if args.config else []
    read += [("the detector's description", args.detector)] if (args.detector or "").endswith(".toml") else []
    read += [("the static mask", path) for path in config.policy.static_masks]
    check_apart(args.output, read)
    if args.plot:
        check_apart(args.plot, [*read, ("the mask file", args.output)])


def _jobs(asked: int | None, maps: int) -> int:
    if asked is not None and asked < 1:
        raise ConfigError(f"--jobs {asked}: 1 or more")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(asked or cores, maps)


# ---- running -------------------------------------------------------------------------------------------------------


def _executor(jobs: int, spec: DetectorSpec, modules: list[int], config: Config):
    """None for one job, which then runs in this thread and shows its progress frame by frame."""
    if jobs == 1:
        return nullcontext()
    MaskMaker(spec, modules[:1], range(1), config.settings).warm_up()  # compiled once, and cached for all of them
    return _processes(jobs)


@contextmanager
def _processes(jobs: int) -> Iterator[Executor]:
    """Fresh processes: a fork would copy the threads' locks, and HDF5's."""
    with ProcessPoolExecutor(jobs, get_context("spawn"), signal.signal, (signal.SIGINT, signal.SIG_DFL)) as executor:
        yield executor


# ---- what came of it -----------------------------------------------------------------------------------------------


def _check_judged(made: Made, config: Config) -> None:
    """A mask in which nothing was judged is not written: it would replace a better one."""
    if any(mask.judged.any() for mask in made.masks):
        return
    rejected = ", ".join(f"{n} {reason}" for reason, n in made.rejected.items()) or "none"
    raise DataError(
        f"no map has the {config.fit.min_frames} frames that it needs ({made.accepted} frames accepted, rejected: "
        f"{rejected}): give more files, or lower min_frames in [fit] of a configuration"
    )


def _lacking(made: Made, spec: DetectorSpec, config: Config) -> Iterator[str]:
    """A line for each exposure that was given and has too few frames to be judged in some maps."""
    least = config.fit.min_frames
    for exposure, (given, counting) in made.exposures.items():
        short = counting < least
        if short.any():
            stage = "" if exposure.gain_stage is None else f", stage {spec.stages[exposure.gain_stage]}"
            worst = int(np.argmin(counting))
            yield (
                f"{exposure.illumination.value}{stage}: too few frames in {np.count_nonzero(short):,} of {len(short):,} "
                f"maps, which it therefore does not judge ({given[worst]:,} given, {counting[worst]:,} used, "
                f"fit.min_frames needs {least:,})"
            )


def _summary(made: Made, spec: DetectorSpec, config: Config, args: argparse.Namespace) -> dict:
    """What --json prints."""
    collapsed = np.stack([mask.collapse() for mask in made.masks])
    kept = np.uint8(BadPixel.EDGE | BadPixel.USER)
    return {
        "mask": args.output,
        "plot": args.plot,
        "detector": spec.name,
        "modules": [mask.module for mask in made.masks],
        "cells": [config.cells.start, config.cells.stop - 1],
        "frames": {"accepted": made.accepted, "not_sampled": made.not_sampled, "rejected": dict(made.rejected)},
        "maps": {
            "judged": sum(int(np.count_nonzero(mask.judged)) for mask in made.masks),
            "all": sum(mask.judged.size for mask in made.masks),
        },
        "features": {
            flag.name.lower(): n
            for flag in BadPixel
            if (n := sum(int(np.count_nonzero(mask.judged & np.uint8(flag))) for mask in made.masks))
        },
        "pixels": int(collapsed.size),
        "bad": int(np.count_nonzero(collapsed & ~kept)),
        "reasons": {flag.name.lower(): int(np.count_nonzero(collapsed & np.uint8(flag))) for flag in BadPixel},
        "settings_digest": config.digest,
    }


def _in_words(found: dict) -> str:
    modules = ", ".join(map(str, found["modules"]))
    rejected = ", ".join(f"{n:,} {reason}" for reason, n in found["frames"]["rejected"].items()) or "none"
    reasons = ", ".join(f"{name} {n:,}" for name, n in found["reasons"].items() if n) or "none"
    features = ", ".join(f"{name} in {n:,}" for name, n in found["features"].items())
    passed_over = f"{found['frames']['not_sampled']:,} not sampled; " if found["frames"]["not_sampled"] else ""
    share = 100 * found["bad"] / found["pixels"]
    lines = [
        f"{found['mask']}: {found['detector']}, module {modules}, cells {found['cells'][0]} to {found['cells'][1]}",
        f"  frames   {found['frames']['accepted']:,} accepted; {passed_over}rejected: {rejected}",
        f"  maps     {found['maps']['judged']:,} of {found['maps']['all']:,} judged: {features}",
        f"  pixels   {found['bad']:,} of {found['pixels']:,} bad beside edge and user ({share:.2f} %)",
        f"  reasons  {reasons}",
    ]
    return "\n".join(lines + ([f"  picture  {found['plot']}"] if found["plot"] else []))
