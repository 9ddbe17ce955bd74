"""What a deployment needs of the place where predictors run; one machine and Kubernetes differ only here."""

from typing import Protocol

from recsys.settings import Colour, Role


class Backend(Protocol):
    """Runs the predictors of two colours; a colour loads its candidate record (`models.release`) when it starts.

    Every call raises Retryable if the place itself does not answer.
    """

    def start(self, colour: Colour) -> None:
        """Start the predictors of a colour, anew if they run; returns before they are ready."""

    def stop(self, colour: Colour) -> None:
        """End the predictors of a colour; no error if none run."""

    def ready(self, colour: Colour) -> bool:
        """Whether all predictors of a colour are loaded and warm.

        Raises:
            Permanent: they never will be; the message holds their last words.
        """

    def address(self, role: Role, colour: Colour) -> str:
        """`host:port` of a predictor's gRPC."""
