"""LOLM, the Latent Order Language Model, and the systems it is compared with.

One idea per module, imports only from left to right::

    config -> data -> mixers -> models -> objectives -> training -> interventions -> evaluation -> analysis -> tracking

Importing this package loads nothing heavy; import the module you need.
"""

__version__ = "0.1.0"


class LolmError(ValueError):
    """An error the user can mend: its message names the file, key or value and what to do. Base of all ours."""
