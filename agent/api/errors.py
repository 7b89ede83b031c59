"""How serving can fail."""


class CannotListen(Exception):
    """The address of `listen.grpc` or `listen.http` is taken, or not one of this machine's. Fit for a user."""
