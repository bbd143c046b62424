"""The one exception that the user of the example is meant to see."""


class UserError(Exception):
    """Something that whoever typed the command can put right; its text is one line."""
