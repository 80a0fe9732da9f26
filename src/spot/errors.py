"""The one exception that is shown to the user as a single line instead of a traceback."""


class UserError(Exception):
    """A mistake the user can mend. The message is one line and names the next step."""
