"""What goes wrong and is not a bug: a `RequestError` ends a command with exit status 2, a `WorkFailed` with 1."""


class RequestError(ValueError):
    """The request made no sense, or names what cannot be used; the message says how to fix it."""


class UsageError(RequestError):
    """An option that makes no sense; the message names the option and how to fix it."""


class DataError(RequestError):
    """Text, a tokenizer or prepared data that cannot be used; the message names the file and how to fix it."""


class ModelError(RequestError):
    """A model that cannot be read; the message names the file and how to fix it."""


class RunConflict(RequestError):
    """The run folder belongs to another run; the message names the folder and how to fix it."""


class MissingScorer(RequestError):
    """The scorer or encoder asked for cannot be loaded; the message names the option and how to fix it."""


class WorkFailed(RuntimeError):
    """A part of the work failed; the message says which, why, and where its log is."""


class CheckpointError(WorkFailed):
    """No usable checkpoint where one was expected; the message says which file and why."""


class LostRank(WorkFailed):
    """Another process of the run is gone; the last checkpoint is intact."""


class Diverged(WorkFailed):
    """The loss stayed too high, or was not finite some steps in a row; the message says what was found."""


class MissingCompiler(WorkFailed):
    """torch.compile cannot work on this machine; the message says what it lacks and how to fix it."""


class HubError(WorkFailed):
    """The hub could not be reached, or failed; the message says what it said."""
