"""Errors that are the user's to mend: a command line shows their text without a traceback."""


class InputError(ValueError):
    """Something that was given is wrong; the text names it and says what to do."""
