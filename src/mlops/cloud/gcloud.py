"""Runs `gcloud`, one named step after the other; a step that fails says what to do."""

import logging
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence

from tenacity import before_sleep_log, retry, retry_if_exception_type, stop_after_attempt, wait_exponential

from src.mlops import ROOT
from src.mlops.config import CloudConfig
from src.mlops.errors import CloudError

logger = logging.getLogger("src.mlops.cloud")
ATTEMPTS = 5  # a new service account is known everywhere only after some seconds

# What gcloud says, and what to do about it; the first that fits counts.
_ADVICE = (
    (
        r"active account|gcloud auth login|[Rr]eauthenticat|invalid_grant|credentials",
        "Log in: `gcloud auth login`; in a workflow, see docs/cloud.md.",
    ),
    (r"[Bb]illing", "Link the project to a billing account: `gcloud billing projects link {project}`."),
    (
        r"PERMISSION_DENIED|does not have permission|[Pp]ermission .* denied|HTTPError 403|forbidden",
        "Check that the project {project} exists, and ask its owner for the role that is lacking, see docs/cloud.md.",
    ),
    (r"RESOURCE_EXHAUSTED|[Qq]uota", "Ask for quota in the console, or choose another machine or region in {config}."),
    (r"SERVICE_DISABLED|has not been used|is not enabled", "Run `inv gcp-bootstrap`, which enables it."),
    (
        r"NOT_FOUND|not found|does not exist|[Cc]annot find",
        "Run `inv gcp-bootstrap`, and compare the names in {config}.",
    ),
    (r"unrecognized arguments|Invalid choice", "Bring gcloud up to date: `gcloud components update`."),
)
_ABSENT = re.compile(r"NOT_FOUND|not found|does not exist|[Cc]annot find|[Cc]ould not be found|HTTPError 404")
_EXISTS = re.compile(r"ALREADY_EXISTS|already exists|HTTPError 409")
# An account that was made a moment ago, a policy that someone else changed meanwhile, an overloaded service.
_PASSING = re.compile(
    r"(?i:service) account \S+ does not exist|ABORTED|concurrent policy changes|UNAVAILABLE|HTTPError 503"
)


class Gcloud:
    """Runs commands in one project.

    Args:
        cloud: Names the project. With `dry_run` commands are printed, and nothing is run or asked for.
    """

    def __init__(self, cloud: CloudConfig) -> None:
        self.cloud = cloud
        self.dry_run = cloud.dry_run
        self.account = ""  # who is logged in
        if not self.dry_run and not shutil.which("gcloud"):
            raise CloudError("expected the command gcloud, found none. Install it: https://cloud.google.com/sdk.")

    def login(self) -> None:
        """Finds out first whether anything can be done at all.

        Raises:
            CloudError: Nobody is logged in, or the project cannot be seen.
        """
        step = "log in"
        words = ("auth", "list", "--filter=status:ACTIVE", "--format=value(account)")
        self.account = self.run(step, *words, project=False)
        if not self.account and not self.dry_run:
            raise CloudError(f"step {step!r}: expected an account, found none. {self._advice('active account')}")
        self.run("find the project", "projects", "describe", self.cloud.project, "--format=value(projectNumber)")

    def run(self, step: str, *words: str, project: bool = True, stdin: str | None = None) -> str:
        """Runs one command, several times where it fails in passing.

        Args:
            step: What it is for, in the imperative.
            words: The command without `gcloud`.
            project: Whether it is told the project.
            stdin: What it reads; never shown.

        Returns:
            What it writes to stdout; nothing when only printed.

        Raises:
            CloudError: It fails; the message names the step and what to do.
        """
        command = self._command(words, project)
        if self.dry_run:
            sys.stdout.write(f"{shlex.join(command)}\n")
            return ""
        logger.info("%s", step)
        again = retry(
            retry=retry_if_exception_type(_PassingError),
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait_exponential(max=16),
            before_sleep=before_sleep_log(logger, logging.WARNING),
            reraise=True,
        )
        return str(again(self._once)(step, command, stdin))

    def token(self, step: str, audience: str) -> str:
        """Returns an identity token, by which the service at the address `audience` knows who asks."""
        words = ["auth", "print-identity-token"]
        if self.account.endswith(".iam.gserviceaccount.com"):
            # The identity of a workflow has no such token of its own; its account may make one for itself.
            words += [f"--impersonate-service-account={self.account}", f"--audiences={audience}"]
        return self.run(step, *words, project=False)

    def exists(self, step: str, *words: str) -> bool:
        """Runs a describing command; False where there is no such thing, or when only printed.

        Raises:
            CloudError: It fails for another reason.
        """
        if self.dry_run:
            return False
        result = self._call(self._command((*words, "--format=none"), project=True))
        if result.returncode and not _ABSENT.search(result.stderr):
            raise self._error(step, result)
        return result.returncode == 0

    def ensure(self, step: str, describe: Sequence[str], create: Sequence[str]) -> None:
        """Creates what is not there yet."""
        if not self.exists(step, *describe):
            self.run(step, *create)

    def remove(self, step: str, *words: str) -> None:
        """Runs a deleting command; that there is no such thing is fine."""
        try:
            self.run(step, *words, "--quiet")
        except CloudError as error:
            if not _ABSENT.search(str(error)):
                raise
            logger.info("%s: it is not there", step)

    def _command(self, words: Sequence[str], project: bool) -> list[str]:
        return ["gcloud", *words, *([f"--project={self.cloud.project}"] if project else [])]

    def _once(self, step: str, command: list[str], stdin: str | None) -> str:
        result = self._call(command, stdin)
        if result.returncode and _EXISTS.search(result.stderr):
            logger.info("%s: it is there already", step)  # made by another at the same moment
        elif result.returncode:
            error = self._error(step, result)
            raise _PassingError(str(error)) if _PASSING.search(result.stderr) else error
        return result.stdout.strip()

    @staticmethod
    def _call(command: list[str], stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603 - words of this package and of the configuration, without a shell
            [shutil.which(command[0]) or command[0], *command[1:]],
            input=stdin if stdin is not None else "",
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
        )

    def _error(self, step: str, result: "subprocess.CompletedProcess[str]") -> CloudError:
        said = " ".join(result.stderr.split())
        start = said.find("ERROR:")
        reason = said[max(start, 0) :][:400].rstrip(".") or f"exit code {result.returncode}"
        return CloudError(f"step {step!r}: expected it to succeed, found: {reason}. {self._advice(said)}")

    def _advice(self, said: str) -> str:
        words = {"project": self.cloud.project, "config": "configshydra/cloud/gcp.yaml"}
        fitting = (advice for pattern, advice in _ADVICE if re.search(pattern, said))
        return next(fitting, "Run the command again with `--dry-run` to see what it is about to do.").format(**words)


class _PassingError(CloudError):
    """What may succeed the next time."""
