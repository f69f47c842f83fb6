"""Runs `gcloud` commands as named steps. The error of a failed step says what to do."""

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
ATTEMPTS = 5  # it takes some seconds until all services know a new service account

# Pattern in the output of gcloud → advice. The first match is used.
_ADVICE = (
    (
        r"active account|gcloud auth login|[Rr]eauthenticat|invalid_grant|credentials",
        "Log in with `gcloud auth login`; for workflows, see docs/cloud.md.",
    ),
    (r"[Bb]illing", "Link the project to a billing account with `gcloud billing projects link {project}`."),
    (
        r"PERMISSION_DENIED|does not have permission|[Pp]ermission .* denied|HTTPError 403|forbidden",
        "Check that the project {project} exists, and ask its owner for the missing role, see docs/cloud.md.",
    ),
    (r"RESOURCE_EXHAUSTED|[Qq]uota", "Request quota in the console, or choose another machine or region in {config}."),
    (r"SERVICE_DISABLED|has not been used|is not enabled", "Enable it with `inv gcp.bootstrap`."),
    (
        r"NOT_FOUND|not found|does not exist|[Cc]annot find",
        "Run `inv gcp.bootstrap`, and check the names in {config}.",
    ),
    (r"unrecognized arguments|Invalid choice", "Update gcloud with `gcloud components update`."),
)
_ABSENT = re.compile(r"NOT_FOUND|not found|does not exist|[Cc]annot find|[Cc]ould not be found|HTTPError 404")
_EXISTS = re.compile(r"ALREADY_EXISTS|already exists|HTTPError 409")
# Temporary failures: a new account, a concurrent change of a policy, an overloaded service.
_TEMPORARY = re.compile(
    r"(?i:service) account \S+ does not exist|ABORTED|concurrent policy changes|UNAVAILABLE|HTTPError 503"
)


class Gcloud:
    """Runs commands in one project.

    Args:
        cloud: Section `cloud` of the configuration. With `dry_run`, commands are only printed.

    Raises:
        CloudError: The command `gcloud` is not installed.
    """

    def __init__(self, cloud: CloudConfig) -> None:
        self.cloud = cloud
        self.dry_run = cloud.dry_run
        self.account = ""  # the account that is logged in
        if not self.dry_run and not shutil.which("gcloud"):
            raise CloudError("The command gcloud is not installed. Install it from https://cloud.google.com/sdk.")

    def login(self) -> None:
        """Checks that an account is logged in and has access to the project.

        Raises:
            CloudError: No account is logged in, or the project cannot be accessed.
        """
        step = "log in"
        words = ("auth", "list", "--filter=status:ACTIVE", "--format=value(account)")
        self.account = self.run(step, *words, project=False)
        if not self.account and not self.dry_run:
            raise CloudError(f"Step {step!r} failed: no account is logged in. {self._advice('active account')}")
        self.run("find the project", "projects", "describe", self.cloud.project, "--format=value(projectNumber)")

    def run(
        self, step: str, *words: str, project: bool = True, stdin: str | None = None, attempts: int = ATTEMPTS
    ) -> str:
        """Runs one command and retries it after temporary failures.

        Args:
            step: Purpose of the command in the imperative.
            words: The command without `gcloud`.
            project: Whether the option `--project` is added.
            stdin: Standard input of the command; it is never shown.
            attempts: Maximum number of attempts; 1 for a command that must not run twice.

        Returns:
            The standard output of the command; an empty string if the command is only printed.

        Raises:
            CloudError: The command fails. The message contains the step and advice.
        """
        command = self._command(words, project)
        if self.dry_run:
            sys.stdout.write(f"{shlex.join(command)}\n")
            return ""
        logger.info("%s", capitalised(step))
        again = retry(
            retry=retry_if_exception_type(TemporaryCloudError),
            stop=stop_after_attempt(attempts),
            wait=wait_exponential(max=16),
            before_sleep=before_sleep_log(logger, logging.WARNING),
            reraise=True,
        )
        return str(again(self._once)(step, command, stdin))

    def token(self, step: str, audience: str) -> str:
        """Returns an identity token for the service at the address `audience`."""
        words = ["auth", "print-identity-token"]
        if self.account.endswith(".iam.gserviceaccount.com"):
            # A workflow identity cannot get such a token directly, but its service account can create one.
            words += [f"--impersonate-service-account={self.account}", f"--audiences={audience}"]
        return self.run(step, *words, project=False)

    def exists(self, step: str, *words: str) -> bool:
        """Returns whether a resource exists, according to a `describe` command; False in a dry run.

        Raises:
            CloudError: The command fails for another reason.
        """
        if self.dry_run:
            return False
        result = self._call(self._command((*words, "--format=none"), project=True))
        if result.returncode and not _ABSENT.search(result.stderr):
            raise self._error(step, result)
        return result.returncode == 0

    def require_image(self, address: str) -> None:
        """Checks that a container image exists.

        Raises:
            CloudError: It does not exist.
        """
        step = "find the container image"
        if not self.exists(step, "artifacts", "docker", "images", "describe", address) and not self.dry_run:
            raise CloudError(
                f"Step {step!r} failed: {address} does not exist. Build it with `inv gcp.build`, or choose a different "
                "tag with cloud.tag."
            )

    def ensure(self, step: str, describe: Sequence[str], create: Sequence[str]) -> None:
        """Creates a resource if it does not exist."""
        if not self.exists(step, *describe):
            self.run(step, *create)

    def remove(self, step: str, *words: str) -> None:
        """Runs a command that deletes a resource. A missing resource is no error."""
        try:
            self.run(step, *words, "--quiet")
        except CloudError as error:
            if not _ABSENT.search(str(error)):
                raise
            logger.info("%s: already deleted", capitalised(step))

    def _command(self, words: Sequence[str], project: bool) -> list[str]:
        return ["gcloud", *words, *([f"--project={self.cloud.project}"] if project else [])]

    def _once(self, step: str, command: list[str], stdin: str | None) -> str:
        result = self._call(command, stdin)
        if result.returncode and _EXISTS.search(result.stderr):
            logger.info("%s: already exists", capitalised(step))  # created concurrently by another process
        elif result.returncode:
            error = self._error(step, result)
            raise TemporaryCloudError(str(error)) if _TEMPORARY.search(result.stderr) else error
        return result.stdout.strip()

    @staticmethod
    def _call(command: list[str], stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603 - arguments come from this package and the configuration; no shell is involved
            [shutil.which(command[0]) or command[0], *command[1:]],
            input=stdin if stdin is not None else "",
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
        )

    def _error(self, step: str, result: "subprocess.CompletedProcess[str]") -> CloudError:
        output = " ".join(result.stderr.split())
        start = output.find("ERROR:")
        reason = output[max(start, 0) :][:400].rstrip(".") or f"exit code {result.returncode}"
        return CloudError(f"Step {step!r} failed: {reason}. {self._advice(output)}")

    def _advice(self, output: str) -> str:
        words = {"project": self.cloud.project, "config": "configshydra/cloud/gcp.yaml"}
        fitting = (advice for pattern, advice in _ADVICE if re.search(pattern, output))
        return next(fitting, "Show all commands with `--dry-run`.").format(**words)


class TemporaryCloudError(CloudError):
    """A failure that a later attempt may not have."""


def capitalised(step: str) -> str:
    """Returns the name of a step with a capital letter, for the log."""
    return step[:1].upper() + step[1:]
