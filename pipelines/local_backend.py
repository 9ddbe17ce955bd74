"""Predictors as processes of the local supervisor."""

from recsys import inference_client, supervisor
from recsys.errors import Permanent
from recsys.settings import ROLES, Colour, Role, Settings
from recsys.supervisor import Process, Supervisor

_TRIES = 3  # starts after which a predictor that keeps dying is given up


class LocalBackend:
    """See `pipelines.backend.Backend`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._supervisor = Supervisor(settings)
        self._starts: dict[str, set[int]] = {}

    def start(self, colour: Colour) -> None:
        self.stop(colour)
        for role in ROLES:
            name = supervisor.predictor(role, colour)
            self._starts[name] = set()
            self._supervisor.start(name)

    def stop(self, colour: Colour) -> None:
        names = [supervisor.predictor(role, colour) for role in ROLES]
        for name in names:
            self._supervisor.stop(name, wait=False)
        for name in names:
            self._supervisor.wait_stopped(name)

    def ready(self, colour: Colour) -> bool:
        for role in ROLES:
            self._refuse_dead(self._supervisor.process(supervisor.predictor(role, colour)))
        return all(self._answers(role, colour) for role in ROLES)

    def address(self, role: Role, colour: Colour) -> str:
        return self._settings.predictor_address(role, colour)

    def _answers(self, role: Role, colour: Colour) -> bool:
        with inference_client.BlockingClient(self.address(role, colour)) as client:
            return client.ready(role)

    def _refuse_dead(self, process: Process) -> None:
        """A predictor that refused its release has ended for good; one that crashes again and again is as dead."""
        starts = self._starts.setdefault(process.name, set())
        if process.started:
            starts.add(process.started)
        if process.state in ("EXITED", "FATAL") or len(starts) > _TRIES:
            words = supervisor.tail(self._settings, process.name)
            file = supervisor.log_file(self._settings, process.name)
            raise Permanent(f"{process.name} is {process.state} and will not become ready; {file} ends:\n{words}")
