"""Jobs on a Ray cluster through its dashboard (Ray Jobs API): submit, follow, stop, list.

A job's name is made from what it does, so that sending the same job twice runs it once: while it is waiting
or running, or after it succeeded, the second call finds the first. After a failure or a stop the same call
starts the next attempt, which resumes, as every verb does.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from cluster import secret
from cluster.connect import ClusterUnavailable
from cluster.package import Package
from cluster.preflight import check_door

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

PREFIX = "aqa"
STOPPED = 130
RECONNECTS = 20
STOP_S = 15.0
"""Ray kills a job 3 s after it asked it to stop; then it takes a moment to be recorded."""

logger = logging.getLogger(__name__)


class Sent(NamedTuple):
    """What `Jobs.submit` did."""

    name: str
    new: bool
    """False: the same job was there already."""


class Jobs:
    """The jobs of one cluster.

    Args:
        address: http(s)://host:port of its dashboard.

    Raises:
        InsecureCluster, ClusterUnavailable, SecretFound: see `preflight.check_door`.
    """

    def __init__(self, address: str):
        self.address = address.rstrip("/")
        self.ray_version = check_door(self.address)
        os.environ["RAY_API_SERVER_ADDRESS"] = self.address  # wins over the argument; RAY_ADDRESS would too
        from ray.job_submission import JobSubmissionClient

        for name in ("dashboard_sdk", "job.sdk"):  # they tell of uploads and closed connections
            logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.WARNING)
        with self._errors():
            self._client = JobSubmissionClient(self.address)
        self._secrets = secret.values_of(os.environ)

    def submit(
        self,
        command: Sequence[str],
        package: Package,
        *,
        folder: str,
        variables: Mapping[str, str],
        again: bool = False,
    ) -> Sent:
        """Run `aqa COMMAND` on the cluster, unless the same job waits, runs or has succeeded.

        Args:
            command: what stands after `aqa`.
            package: the sources to run.
            folder: on the cluster; relative paths of the command begin there.
            variables: environment of the job; everybody on the cluster can read them.
            again: run again although it has succeeded.

        Raises:
            SecretFound: the command or a variable holds a secret.
        """
        secret.check("the command", shlex.join(command), self._secrets, by_name=True)
        for name, value in variables.items():
            secret.check(f"environment variable {name}", f"{name}={value}", self._secrets, by_name=True)
        base = name_of(command, package, folder, variables)
        jobs = {job.submission_id: job for job in self._all()}
        attempt, last = 0, None
        while (job := jobs.get(f"{base}-{attempt + 1}")) is not None:
            attempt, last = attempt + 1, job.status
        if last in ("PENDING", "RUNNING") or (last == "SUCCEEDED" and not again):
            return Sent(f"{base}-{attempt}", new=False)
        name = f"{base}-{attempt + 1}"
        python = ["python", "-P", "-m", "pipelines", *command]
        return Sent(name, new=self.start(name, python, package, folder=folder, variables=variables))

    def start(
        self,
        name: str,
        arguments: Sequence[str],
        package: Package,
        *,
        folder: str = "",
        variables: Mapping[str, str] | None = None,
    ) -> bool:
        """Start a process on the cluster; False if a job of this name exists."""
        go = f"cd {shlex.quote(folder)} && exec " if folder else "exec "
        try:
            with self._errors():
                self._client.submit_job(
                    entrypoint=go + shlex.join(arguments),
                    submission_id=name,
                    runtime_env={
                        "working_dir": str(package.path),
                        "env_vars": {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", **(variables or {})},
                    },
                    metadata={"program": "aqa", "package": package.digest[:12]},
                )
        except ClusterUnavailable as error:
            if "already exists" in error.cause:  # a retry after an answer that was lost
                return False
            raise
        return True

    def follow(self, name: str, write: Callable[[str], None]) -> int:
        """Hand over the lines of the job's log as they come; returns its exit code when it ends.

        A lost connection is taken up again, and no line comes twice.

        Raises:
            ClusterUnavailable: no such job, or the cluster is gone.
        """
        seen, lost = 0, 0
        lines = _Lines(lambda line: write(secret.redacted(line, self._secrets)))
        while True:
            before = seen
            seen = asyncio.run(self._tail(name, seen, lines))
            details = self.details(name)
            if details.status.is_terminal():
                rest = self.logs(name)[seen:]  # what came between the last line and the end
                lines.add(rest)
                lines.end()
                return self._exit_code(details)
            lost = 0 if seen > before else lost + 1
            if lost > RECONNECTS:
                raise ClusterUnavailable(
                    self.address, "its log cannot be followed any more", f"Try `aqa jobs logs {name}`"
                )
            time.sleep(min(1.0 + lost, 10.0))

    async def _tail(self, name: str, seen: int, lines: _Lines) -> int:
        """Every connection tells the log from its beginning; the first `seen` characters are dropped."""
        from ray.dashboard.modules.job.sdk import aiohttp

        position = 0
        try:
            async for chunk in self._client.tail_job_logs(name):
                new = chunk[max(0, seen - position) :]
                position += len(chunk)
                lines.add(new)
        except (OSError, RuntimeError, aiohttp.ClientError) as error:
            logger.debug("connection to the log lost: %s", error)
        return max(seen, position)

    def details(self, name: str) -> JobDetails:
        """What Ray knows of a job.

        Raises:
            ClusterUnavailable: no such job.
        """
        with self._errors(name):
            return self._client.get_job_info(name)

    def status(self, name: str) -> dict[str, Any]:
        """One job as a row: name, status, exit code, times in seconds, command."""
        return self._row(self.details(name))

    def logs(self, name: str) -> str:
        """All a job has printed so far."""
        with self._errors(name):
            return self._client.get_job_logs(name)

    def stop(self, name: str) -> dict[str, Any]:
        """Ask a job to stop (SIGTERM, SIGKILL 3 s later) and wait until it has.

        Raises:
            ClusterUnavailable: no such job, or it still runs after 15 s.
        """
        with self._errors(name):
            self._client.stop_job(name)
        deadline = time.monotonic() + STOP_S
        while not (details := self.details(name)).status.is_terminal():
            if time.monotonic() > deadline:
                raise ClusterUnavailable(
                    name, f"the job still runs {STOP_S:.0f} s after it was asked to stop", "Ask again"
                )
            time.sleep(0.2)
        return self._row(details)

    def discard(self, name: str) -> None:
        """Stop a job and forget it."""
        self.stop(name)
        with self._errors(name):
            self._client.delete_job(name)

    def list(self) -> list[dict[str, Any]]:
        """This program's jobs as rows, newest first."""
        jobs = [job for job in self._all() if (job.metadata or {}).get("program") == "aqa"]
        return [self._row(job) for job in sorted(jobs, key=lambda job: -(job.start_time or 0))]

    def _all(self) -> list[JobDetails]:
        with self._errors():
            return self._client.list_jobs()

    def _row(self, job: JobDetails) -> dict[str, Any]:
        end = job.end_time or (None if job.status.is_terminal() else int(time.time() * 1000))
        seconds = round((end - job.start_time) / 1000, 1) if end and job.start_time else None
        return {
            "job": job.submission_id,
            "status": job.status.value,
            "exit_code": exit_code_of(job.status.value, job.driver_exit_code),
            "seconds": seconds,
            "command": secret.redacted(command_of(job.entrypoint), self._secrets),
        }

    def _exit_code(self, job: JobDetails) -> int:
        code = exit_code_of(job.status.value, job.driver_exit_code)
        if code is None:
            message = " ".join((job.message or "no reason given").split())[:500]
            raise ClusterUnavailable(
                job.submission_id or self.address,
                f"the job ended without an exit code: {secret.redacted(message, self._secrets)}",
                "The same command runs it again",
            )
        return code

    @contextlib.contextmanager
    def _errors(self, name: str = "") -> Iterator[None]:
        """Ray's errors, which are plain RuntimeErrors, as ours."""
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            cause = "the cluster refused the token"
            raise ClusterUnavailable(
                self.address, cause, "Set RAY_AUTH_TOKEN_PATH to the token of this cluster"
            ) from error
        except (OSError, RuntimeError) as error:
            text = secret.redacted(" ".join(str(error).split()), self._secrets)[:500]
            if name and "status code 404" in text:
                raise ClusterUnavailable(
                    name, f"no such job on {self.address}", "`aqa jobs list` shows the jobs"
                ) from error
            raise ClusterUnavailable(
                self.address, f"the dashboard failed: {text.rstrip('.')}", "Look into the cluster's logs"
            ) from error


class _Lines:
    """Hands whole lines on, from pieces of text of any length."""

    def __init__(self, write: Callable[[str], None]):
        self._write, self._rest = write, ""

    def add(self, text: str) -> None:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._write(line)

    def end(self) -> None:
        if self._rest:
            self._write(self._rest)
        self._rest = ""


def name_of(command: Sequence[str], package: Package, folder: str, variables: Mapping[str, str]) -> str:
    """The part of a job's name that says what it does: the same for the same work, on any machine."""
    work = json.dumps([list(command), package.digest, folder, sorted(variables.items())])
    verb = "-".join(word for word in command[:2] if word.replace("-", "").isalnum() and word[0] != "-")
    return f"{PREFIX}-{verb or 'job'}-{hashlib.sha256(work.encode()).hexdigest()[:12]}"


def exit_code_of(status: str, code: int | None) -> int | None:
    """What `aqa` itself would have returned; None while it runs, or when Ray does not know.

    Args:
        status: of Ray.
        code: of the process; negative = killed by that signal.
    """
    if status == "STOPPED":
        return STOPPED
    if code is None:
        return 0 if status == "SUCCEEDED" else None
    return 128 - code if code < 0 else code


def command_of(entrypoint: str) -> str:
    """`aqa ...` as the user wrote it, from the shell line that Ray ran."""
    _, found, command = entrypoint.partition("-m pipelines ")
    return f"aqa {command}" if found else entrypoint
