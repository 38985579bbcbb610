"""The configuration of the module at full rate, for the service and its sender."""

SHAPE = (512, 128)
NAME = "SPB_DET_AGIPD1M-1/DET/{module}CH0:xtdf"
EXPOSURE = "SIM/EXPOSURE"
LOW, HIGH = 3000, 5000  # thresholds of the indicator: the frames switch freely, and all happen to be in high gain


def toml(
    endpoint: str, socket: str, directory: str, cells: int = 352, axes: str = "cell ss fs", block: bool = False
) -> str:
    return f"""
[detector]
name = "agipd1m"
cells = {cells}
gain_thresholds = [{LOW}, {HIGH}]
[shards]
modules = [0]
[source]
endpoint = "{endpoint}"
socket = "{socket}"
name = "{NAME}"
axes = "{axes}"
hwm = 4
queue = 6
when_full = "{"block" if block else "drop-oldest"}"
[exposure]
source = "{EXPOSURE}"
[publish]
updates = "tcp://127.0.0.1:*"
requests = "tcp://127.0.0.1:*"
[store]
directory = "{directory}"
[http]
port = 0
"""
