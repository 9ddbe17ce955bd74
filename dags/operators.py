"""The operators that run a stage of the platform in the platform's own environment.

Airflow and the platform cannot share one environment (their pins of psutil exclude each other), so a task is a
command in the other one. BashOperator would leak Airflow's secrets to it, take the last line of either stream as
the result and leave stubborn children alive; this operator does none of that.
"""

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from airflow.sdk import BaseOperator, BranchMixIn, Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from dags import notes
from recsys import settings as configuration
from recsys.errors import Exit

PERMANENT = (Exit.USAGE, Exit.BAD_DATA, Exit.CONFIG)
NOTHING = "nothing to do: "  # as `pipelines.stage` says it
GRACE_SECONDS = 4  # Airflow's supervisor kills the task 5 s after it asked


class StageOperator(BaseOperator):
    """Run `python -m pipelines STAGE …` and return its result.

    Exit codes: 0 is success, 99 skips the task, 64, 65 and 78 fail it for good, and anything else lets Airflow
    retry. The child runs in a session of its own, dies with this process, and sees an allow-list of the
    environment.

    Args:
        stage: name of the stage.
        arguments: its options; a template.
        python: interpreter of the platform's environment.
    """

    template_fields: Sequence[str] = ("arguments",)
    ui_color = "#e8f1fb"

    def __init__(self, *, stage: str, arguments: Sequence[str], python: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stage = stage
        self.arguments = list(arguments)
        self.python = python
        self._process: subprocess.Popen[str] | None = None
        self._last_line = ""

    def command(self) -> list[str]:
        """The command line, rendered; an option without a value is left to the stage's default."""
        return [self.python, "-m", "pipelines", self.stage, *without_empty(self.arguments)]

    def execute(self, context: Context) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            result = Path(folder) / "result.json"
            code = self._run([*self.command(), "--result", str(result)])
            if code == Exit.SKIP:
                self._note_skip(context)
                raise AirflowSkipException(f"{self.stage} has nothing to do")
            if code in PERMANENT:
                raise AirflowFailException(f"{self.stage} failed for good ({Exit(code).name}); its last lines say why")
            if code != Exit.OK:
                raise AirflowException(f"{self.stage} ended with exit code {code}; Airflow may retry it")
            return json.loads(result.read_text())

    def _note_skip(self, context: Context) -> None:
        """Say on the run's note why there was nothing to do, as the stage's last line does."""
        _, found, reason = self._last_line.partition(NOTHING)
        if found:
            notes.add(context["dag_run"], f"{self.stage} skipped: {reason}")

    def on_kill(self) -> None:
        """Stop the whole group of the child: politely, then for good."""
        if self._process is None or self._process.poll() is not None:
            return
        os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)

    def _run(self, command: list[str]) -> int:
        self.log.info("running %s", " ".join(command))
        settings = configuration.load()
        with subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", "--", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=configuration.REPOSITORY,
            env=configuration.child_environment(settings),
            start_new_session=True,
        ) as self._process:
            assert self._process.stdout is not None
            for line in self._process.stdout:
                self._last_line = line.rstrip()
                self.log.info("%s", self._last_line)
            return self._process.wait()


class GateOperator(StageOperator, BranchMixIn):
    """Run a gate stage and let the run go on only where it passed.

    The verdict, its figures and its reasons are logged, returned, and written on the run's note.

    Args:
        passed: ids of the tasks that follow a pass.
        refused: id of the task that follows a fail.
    """

    inherits_from_skipmixin = True

    def __init__(self, *, passed: Sequence[str], refused: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.passed = list(passed)
        self.refused = refused

    def execute(self, context: Context) -> Any:
        result = super().execute(context)
        verdict = "passed" if result["passed"] else notes.REFUSED
        reasons = sorted(result["reasons"], key=lambda reason: not reason.startswith(notes.FAILED))
        line = ": ".join(filter(None, (f"{self.stage} {verdict}", "; ".join(reasons))))
        self.log.info(line)
        notes.add(context["dag_run"], line)
        self.do_branch(context, self.passed if result["passed"] else self.refused)
        return result


def without_empty(arguments: Sequence[str]) -> list[str]:
    """Drop `--option` pairs whose rendered value is empty or "None": the trigger form left them blank."""
    pairs = zip(arguments[::2], arguments[1::2], strict=True)
    return [part for name, value in pairs if value not in ("", "None") for part in (name, value)]
