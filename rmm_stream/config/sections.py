"""The sections of a configuration: frozen structs, unknown keys forbidden, each default with the paper's section behind it."""

import hashlib
from dataclasses import fields, replace
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from ..detectors import DETECTORS, DetectorSpec, detector
from ..errors import ConfigError
from ..frames import Exposure, Illumination

Positive = Annotated[int, Meta(ge=1)]
Natural = Annotated[int, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Seconds = Annotated[float, Meta(gt=0)]
Endpoint = Annotated[str, Meta(pattern=r"^(tcp|ipc)://.+")]
Mebibytes = Annotated[int, Meta(ge=1, le=65536)]
Port = Annotated[int, Meta(ge=0, le=65535)]


class Section(Struct, frozen=True, forbid_unknown_fields=True):
    """A section of the file."""


class Detector(Section):
    """[detector]: a known name, or a description; with a known name every field given here overrides the known one."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]+$")]
    modules: Positive | UnsetType = UNSET
    module_shape: tuple[Positive, Positive] | UnsetType = UNSET
    asic_shape: tuple[Positive, Positive] | UnsetType = UNSET
    cells: Annotated[int, Meta(ge=1, le=65535)] | UnsetType = UNSET
    stages: Annotated[tuple[str, ...], Meta(min_length=1, max_length=8)] | UnsetType = UNSET
    bits: Annotated[int, Meta(ge=0, le=32)] | UnsetType = UNSET
    counting: bool | UnsetType = UNSET
    sentinels: tuple[int, ...] | UnsetType = UNSET
    saturation: int | UnsetType = UNSET
    edge_width: Natural | UnsetType = UNSET
    first_number: Natural | UnsetType = UNSET
    gain: Literal["none", "code", "analogue"] | UnsetType = UNSET
    gain_codes: tuple[int, ...] | UnsetType = UNSET
    packed: Annotated[int, Meta(ge=0, le=8)] | UnsetType = UNSET
    gain_thresholds: tuple[float, ...] | UnsetType = UNSET
    adu_per_photon: Annotated[float, Meta(gt=0)] | UnsetType = UNSET
    common_mode: Annotated[float, Meta(ge=0)] | UnsetType = UNSET
    remove_common_mode: bool | UnsetType = UNSET

    def spec(self) -> DetectorSpec:
        """The DetectorSpec of this section. Raises ConfigError where a description lacks a field or contradicts itself."""
        given = {f.name: getattr(self, f.name) for f in fields(DetectorSpec) if getattr(self, f.name) is not UNSET}
        if self.name in DETECTORS:
            return replace(detector(self.name), **given)
        lacking = [key for key in ("modules", "module_shape", "asic_shape") if key not in given]
        if lacking:
            raise ConfigError(
                f"[detector] name = {self.name!r} is not a known detector ({', '.join(DETECTORS)}), "
                f"and its description lacks {', '.join(lacking)}"
            )
        return DetectorSpec(**given)


class Shards(Section):
    """[shards]: the part of the detector that this process does."""

    modules: Annotated[tuple[Natural, ...], Meta(min_length=1)] | None = None  # None: all
    cells: tuple[Natural, Natural] | None = None  # first and last, both included; None: all
    workers: Annotated[int, Meta(ge=1, le=64)] = 1  # threads that share the memory cells


class Source(Section):
    """[source]: where frames come from and how they are written."""

    protocol: Literal["karabo", "native"] = "karabo"
    endpoint: Endpoint | Annotated[tuple[Endpoint, ...], Meta(min_length=1)] = "tcp://127.0.0.1:4545"
    socket: Literal["sub", "pull", "req"] = "sub"
    name: str = "SPB_DET_AGIPD1M-1/DET/{module}CH0:xtdf"  # karabo source; {module} stands for the module's number
    image_key: str = "image.data"
    gain_key: str = "image.gain"  # "": no gain array
    cell_key: str = "image.cellId"  # "": frames are numbered 0.. in the order of the array
    axes: str = "cell ss fs"
    gain_axes: str = ""  # "": as axes
    train_step: Positive = 1  # how far apart the ids of two successive trains are
    hwm: Positive = 4  # trains that ZeroMQ may hold
    max_message_mb: Mebibytes = 512
    queue: Annotated[int, Meta(ge=1, le=64)] = 4  # messages between receiver and worker
    when_full: Literal["drop-oldest", "block"] = "drop-oldest"

    @property
    def endpoints(self) -> tuple[str, ...]:
        return (self.endpoint,) if isinstance(self.endpoint, str) else self.endpoint


class LightSettings(Section):
    """Of [exposure], what a maker needs to tell dark frames from lit ones; docs/method.md 7.1."""

    # do frames have a say? "check": those that deny what they are declared as are not used; "label": they also say it
    classify: Literal["off", "check", "label"] = "off"
    dark_cut: Annotated[float, Meta(ge=3, le=100)] = (
        8.0  # sigmas from the darks up to which a frame looks dark; F1's cut
    )
    # trains that are used for nothing after the light goes on or off; None: 1, and 0 with "label", where lone trains are dark
    guard_frames: Annotated[int, Meta(ge=0, le=1000)] | None = None


class ExposureSettings(LightSettings):
    """[exposure]: who says dark, flat or sample, and which gain stage."""

    default: Literal["dark", "flat", "sample", "unknown"] = "unknown"
    gain_stage: Natural | None = None
    source: str = ""  # karabo source whose keys announce the exposure; "": the stream does not say
    illumination_key: str = "illumination.value"
    gain_stage_key: str = "gainStage.value"  # negative or absent: each pixel switches by itself

    @property
    def light(self) -> LightSettings:
        return LightSettings(self.classify, self.dark_cut, self.guard_frames)

    @property
    def default_exposure(self) -> Exposure:
        return Exposure(Illumination(self.default), self.gain_stage)


class Gate(Section):
    """[gate]: F1, section 3.2.1."""

    cut: Annotated[float, Meta(gt=0, le=100)] = 8.0  # section 3.1 and Appendix B
    history: Annotated[int, Meta(ge=20, le=65536)] = 512  # robust means that a frame is compared with
    learn: Annotated[int, Meta(ge=20, le=4096)] = 64  # frames that stay provisional


class Fit(Section):
    """[fit]: sections 2.3 and 3.1, Appendices A and B."""

    cut: Annotated[float, Meta(ge=3, le=100)] = 8.0  # section 3.1, Appendix B: decides good or bad
    clear_cut: Annotated[float, Meta(ge=2, le=100)] = 7.0  # lower cut, for hysteresis only
    lambda_fit: Annotated[float, Meta(ge=2.5, le=100)] = 3.0  # inlier rule inside the scale; NOT the cut
    strict_paper: bool = False  # allows lambda_fit beyond 5
    structure: Annotated[float, Meta(gt=0.1, le=0.9)] = 0.5  # k/N, Appendix A
    certain: Annotated[float, Meta(ge=0, lt=0.9)] = 0.35  # inner end of the rank window, 1-D fits
    tile: tuple[Annotated[int, Meta(ge=15)], Annotated[int, Meta(ge=15)]] = (64, 64)  # Fig. 2
    min_frames: Annotated[int, Meta(ge=2)] = 200  # section 3.3.1, Hoseinnezhad et al. 2006
    dither: Literal["auto", "on", "off"] = "auto"
    news: Annotated[float, Meta(gt=0, le=1)] = 0.05  # a map is fitted again when this share of its frames is new
    every_s: Annotated[float, Meta(ge=0)] = 0.0  # least data time between two fits of a map


class Lit(Section):
    """[features.lit]: F6, section 3.3.1."""

    window: tuple[Annotated[int, Meta(ge=15)], Annotated[int, Meta(ge=15)]] | None = None  # None: as fit.tile
    every_train: Positive = 4  # F6 judges a cell in one train in so many, and of a train one cell in so many
    when_late: Literal["thin", "keep"] = "thin"  # what to do when trains wait: judge fewer, evenly, or lose trains
    warm: bool = True  # a fit starts from the last one of its tile, with safeguards: docs/method.md 8
    span_s: Seconds = 600.0  # time window
    span_frames: Annotated[int, Meta(ge=16, le=32768)] = 1024  # ... or so many judged frames, whichever ends first
    buckets: Annotated[int, Meta(ge=2, le=64)] = 8
    clip: Annotated[float, Meta(gt=0)] = 5.0  # SNR of one frame on sample data is clipped to this


class LitRate(Section):
    """[features.lit_rate]: share of frames beyond a cut, above and below apart."""

    snr: Annotated[float, Meta(ge=2, le=100)] = 5.0
    min_share: Share = 0.02


class Features(Section):
    lit: Lit = Lit()
    lit_rate: LitRate = LitRate()


class CommonMode(Section):
    """[common_mode]: shifts of whole ASICs from one dark frame to the next."""

    remove: Literal["auto", "on", "off"] = "auto"  # from dark frames; auto: as the detector needs it

    def removed_from(self, spec: DetectorSpec) -> bool:
        """Whether shifts are removed. Raises ConfigError where they cannot be."""
        wanted = self.remove == "on" or (self.remove == "auto" and spec.remove_common_mode)
        top = (1 << spec.bits) - 1
        can = spec.narrow and spec.bits > 8 and not spec.counting and not any(0 < s < top for s in spec.sentinels)
        if wanted and not can:
            raise ConfigError(
                "common_mode.remove: shifts are removed from raw integers of 9 to 14 bits of a detector that integrates, "
                f"whose sentinels are its least or largest value; {spec.name} is not one"
            )
        return wanted


class Drift(Section):
    """[drift]: how far ASICs have moved in the dark since their statistics began."""

    limit: Annotated[float, Meta(gt=0, le=100)] = 0.5  # in noise of the ASIC: then noise seems 1/8 larger than it is
    confirm_frames: Positive | None = None  # dark frames of a cell that have to say so; None: fit.min_frames
    replace: Literal["auto", "operator"] = "auto"  # who starts the statistics of that module and stage afresh


class Settings(Section):
    """All that a MaskMaker needs to know beside the detector."""

    gate: Gate = Gate()
    fit: Fit = Fit()
    features: Features = Features()
    light: LightSettings = LightSettings()
    common_mode: CommonMode = CommonMode()
    drift: Drift = Drift()


class Policy(Section):
    """[policy]: between fit and publication."""

    # HDF5 files; of each the dataset /mask or /collapsed, non-zero = bad, becomes USER
    static_mask: str | tuple[str, ...] = ""
    set_after: Annotated[int, Meta(ge=1, le=100)] = 1  # fits in a row beyond fit.cut that set a bit
    clear_after: Annotated[int, Meta(ge=1, le=100)] = 3  # fits in a row within fit.clear_cut that clear it
    max_new: Annotated[float, Meta(gt=0, le=1)] = 0.02  # share of a map's pixels that may turn bad, or good, at once
    max_bad: Annotated[float, Meta(gt=0, le=1)] = 0.25  # share of a map's pixels that may be bad
    confirm_fits: Natural = 10  # fits in a row that confirm a larger jump; 0: only an operator does

    @property
    def static_masks(self) -> tuple[str, ...]:
        """The files, any number of them."""
        named = (self.static_mask,) if isinstance(self.static_mask, str) else self.static_mask
        return tuple(path for path in named if path)


class Publish(Section):
    """[publish]: the wire of the mask."""

    updates: Endpoint = "tcp://127.0.0.1:5610"
    requests: Endpoint = "tcp://127.0.0.1:5611"
    heartbeat_s: Annotated[float, Meta(ge=0.05, le=60)] = 1.0
    insecure: bool = False  # allows an address that is not loopback


class Store(Section):
    """[store]: files."""

    directory: str = ""  # "": $STATE_DIRECTORY, else ./state
    versions: bool = True  # numbered versions of the mask, in directory/<detector>/versions
    every_s: Seconds = 300.0  # a version that nobody asked for comes at most so often, and only if something changed
    keep: Annotated[int, Meta(ge=2)] = 1000  # versions; the oldest go first, the pinned one never
    mask_file: str = ""  # the complete mask: a copy of the newest version; "": none
    live_file: str = ""  # the collapsed mask, replaced at every change; "": none


class Http(Section):
    """[http]: page, metrics, health."""

    host: str = "127.0.0.1"
    port: Port = 8610  # 0: any free port
    stall_s: Seconds = 30.0  # /healthz fails when no frame was processed for so long
    insecure: bool = False  # allows an address that is not loopback


class Simulate(Section):
    """[simulate]: what `rmm-stream simulate` sends to the service of this configuration. The service reads none of it."""

    rate_hz: Annotated[float, Meta(gt=0, le=1e6)] = 10.0  # trains per second, at most
    dark_trains: Natural = 250  # in each gain stage
    flat_trains: Natural = 500
    sample_trains: Natural = 0
    seed: Natural = 1
    defects: Natural = 50  # of each kind, in each map where it can show
    onset_defects: Natural = 20  # of each kind that shows under light, in each of its maps, beginning during the run
    karabo_version: Literal["2.2", "1.0"] = "2.2"
    tap: Endpoint | None = None  # a second, PUB socket with the same messages, for a consumer; None: none
    truth: str = ""  # HDF5 file with what was planted, written before the first frame; "": none


class Config(Section):
    detector: Detector
    shards: Shards = Shards()
    source: Source = Source()
    exposure: ExposureSettings = ExposureSettings()
    gate: Gate = Gate()
    fit: Fit = Fit()
    features: Features = Features()
    common_mode: CommonMode = CommonMode()
    drift: Drift = Drift()
    policy: Policy = Policy()
    publish: Publish = Publish()
    store: Store = Store()
    http: Http = Http()
    simulate: Simulate = Simulate()

    @property
    def settings(self) -> Settings:
        return Settings(self.gate, self.fit, self.features, self.exposure.light, self.common_mode, self.drift)

    @property
    def modules(self) -> tuple[int, ...]:
        return tuple(range(self.detector.spec().modules)) if self.shards.modules is None else self.shards.modules

    @property
    def cells(self) -> range:
        """The memory cells that this process does."""
        if self.shards.cells is None:
            return range(self.detector.spec().cells)
        return range(self.shards.cells[0], self.shards.cells[1] + 1)

    @property
    def json(self) -> str:
        """Every setting of the service, defaults too."""
        service = msgspec.structs.replace(self, simulate=Simulate())
        return msgspec.json.encode(service, order="deterministic").decode()

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that change when any setting of the service changes."""
        return hashlib.sha256(self.json.encode()).hexdigest()[:12]


#: Words of `source.axes`; "kind" holds analogue value and gain (raw AGIPD files).
AXES = ("cell", "module", "kind", "ss", "fs")
