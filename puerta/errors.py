"""Every error Puerta raises on purpose. A caller catches the narrowest one it can act on."""


class PuertaError(Exception):
    """The root: something an operator or a peer did, said in words they can act on."""


class ConfigError(PuertaError):
    """A configuration that can't be used. `problems` holds every finding, each `FILE:LINE:COL: path: what (what to do)`."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class BootError(PuertaError):
    """The server could not start: an address in use, a second instance, a missing program, a missing user."""


class BoardFull(PuertaError):
    """The shared board has no room left for another route, backend or child."""


class ProtocolError(PuertaError):
    """A peer sent bytes that are not what the protocol allows. `reason` is a short, fixed token for counters and logs."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
