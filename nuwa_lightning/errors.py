"""The one error that the command line turns into a single line and exit status 2."""


class UsageError(ValueError):
    """Something the user gave does not work: one line that names the option, the value and the cure."""

    def __init__(self, option: str, value: object, cure: str) -> None:
        self.option = option
        self.value = value
        self.cure = cure
        super().__init__(f"{option}: {value}: {cure}")


class LawError(UsageError):
    """A strategy (a context pool, a direction) broke one of its laws during a run: a fault of its class."""
