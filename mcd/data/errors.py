"""What is wrong with text, a tokenizer or prepared data."""


class DataError(ValueError):
    """Input that cannot be used as text; the message names the file and the mend."""
