"""Runs `gcloud` commands as named steps. The error of a failed step says what to do."""

import logging
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence

from tenacity import Retrying, before_sleep_log, retry_if_exception_type, stop_after_attempt, wait_exponential

from src.mlops import ROOT
from src.mlops.config import CloudConfig
from src.mlops.errors import CloudError

logger = logging.getLogger("src.mlops.cloud")
ATTEMPTS = 5  # it takes some seconds until all services know a new service account

# Permissions and services as they stand in the output of gcloud.
_SERVICES = (
    "aiplatform|artifactregistry|billing|cloudbuild|cloudscheduler|iam|logging|monitoring|resourcemanager|run|"
    "secretmanager"
)
_PERMISSION = re.compile(
    rf"\b(?P<name>(?:iam\.googleapis\.com/|(?:{_SERVICES}|serviceusage|storage)\.(?!googleapis))[a-zA-Z]+\.[a-zA-Z]+)\b"
)
_SERVICE = re.compile(r"\b(?P<name>[a-z]+\.googleapis\.com)\b")
_COMMAND = re.compile(r"\(gcloud[\w.-]*\)")  # gcloud's own name of the command, such as (gcloud.run.services.replace)
_DISABLED = r"SERVICE_DISABLED|has not been used in project|is not enabled"
_DENIED = r"PERMISSION_DENIED|does not have permission|[Pp]ermission (.* )?denied|HTTPError 403|[Ff]orbidden"

# Pattern in the output of gcloud → advice. The first match is used.
_ADVICE = (
    (_DISABLED, "Enable the service {service}with `inv gcp.bootstrap`, run by an owner of the project {project}."),
    (
        r"[Bb]illing account .* not found|billing to be enabled|[Bb]illing is disabled|[Bb]illing must be enabled",
        "Link the project to a billing account with `gcloud billing projects link {project}`.",
    ),
    (
        r"failed the configured startup probe|failed to start and listen",
        "See its log with `gcloud run services logs read` or in the console. If the log contains a 403, `inv "
        "gcp.bootstrap`, run by an owner, allows the account `serve` to read models (storage.objects.get).",
    ),
    (
        _DENIED,
        "Check that the project {project} exists and that {account} has the permission {permission}: "
        "`inv gcp.bootstrap`, run by an owner, grants the accounts of this repository what they need; for any other "
        "account, ask an owner for a role that contains it, see docs/how-to/deploy.md.",
    ),
    (
        r"active account|gcloud auth login|[Rr]eauthenticat|invalid_grant|credentials",
        "Log in with `gcloud auth login`; for workflows, see docs/how-to/ci.md.",
    ),
    (r"RESOURCE_EXHAUSTED|[Qq]uota", "Request quota in the console, or choose another machine or region in {config}."),
    (
        r"NOT_FOUND|not found|does not exist|[Cc]annot find",
        "Run `inv gcp.bootstrap`, and check the names in {config}.",
    ),
    (r"installation of components", "Install the commands with `gcloud components install alpha`."),
    (r"unrecognized arguments|Invalid choice", "Update gcloud with `gcloud components update`."),
)
_ABSENT = re.compile(r"NOT_FOUND|not found|does not exist|[Cc]annot find|[Cc]ould not be found|HTTPError 404")
_EXISTS = re.compile(r"ALREADY_EXISTS|already exists|HTTPError 409")
# Temporary failures: a new account, a service that was enabled just now, a concurrent change of a policy, overload.
_TEMPORARY = re.compile(
    r"(?i:service) account \S+ does not exist|enabled this API recently|ABORTED|concurrent policy changes|UNAVAILABLE|"
    "HTTPError 503"
)


def retrying(attempts: int) -> Retrying:
    """Returns attempts that repeat what failed with a `TemporaryCloudError`, after 1, 2, 4, … 16 seconds."""
    return Retrying(
        retry=retry_if_exception_type(TemporaryCloudError),
        stop=stop_after_attempt(attempts),
        wait=wait_exponential(max=16),
        before_sleep=before_sleep_log(logger, logging.WARNING),
        reraise=True,
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
        """Checks that an account is logged in.

        Raises:
            CloudError: No account is logged in.
        """
        step = "log in"
        words = ("auth", "list", "--filter=status:ACTIVE", "--format=value(account)")
        self.account = self.run(step, *words, project=False)
        if not self.account and not self.dry_run:
            raise CloudError(self.explain(step, "no active account is logged in"))

    def run(
        self,
        step: str,
        *words: str,
        project: bool = True,
        stdin: str | None = None,
        stream: bool = False,
        attempts: int = ATTEMPTS,
    ) -> str:
        """Runs one command and retries it after temporary failures.

        Args:
            step: Purpose of the command in the imperative.
            words: The command without `gcloud`.
            project: Whether the option `--project` is added.
            stdin: Standard input of the command; it is never shown.
            stream: Whether the output is shown while the command runs, instead of returned.
            attempts: Maximum number of attempts; 1 for a command that must not run twice.

        Returns:
            The standard output of the command; an empty string if the command is only printed or its output is shown.

        Raises:
            CloudError: The command fails. The message contains the step and advice.
        """
        command = self._command(words, project)
        if self.dry_run:
            sys.stdout.write(f"{shlex.join(command)}\n")
            return ""
        logger.info("%s", capitalised(step))
        return retrying(attempts)(self._once, step, command, stdin, stream)

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

    def _once(self, step: str, command: list[str], stdin: str | None, stream: bool) -> str:
        result = self._call(command, stdin, stream)
        if result.returncode and _EXISTS.search(result.stderr):
            logger.info("%s: already exists", capitalised(step))  # created concurrently by another process
        elif result.returncode:
            error = self._error(step, result)
            raise TemporaryCloudError(str(error)) if _TEMPORARY.search(result.stderr) else error
        return (result.stdout or "").strip()

    @staticmethod
    def _call(command: list[str], stdin: str | None = None, stream: bool = False) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603 - arguments come from this package and the configuration; no shell is involved
            [shutil.which(command[0]) or command[0], *command[1:]],
            input=stdin if stdin is not None else "",
            stdout=None if stream else subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            check=False,
        )

    def _error(self, step: str, result: "subprocess.CompletedProcess[str]") -> CloudError:
        return CloudError(self.explain(step, result.stderr or f"exit code {result.returncode}"))

    def explain(self, step: str, output: str) -> str:
        """Returns the error message of a failed step: the reason from the output of gcloud or Google, and advice."""
        output = " ".join(output.split())
        reason = output[max(output.find("ERROR:"), 0) :][:400].rstrip(".")
        permission = _PERMISSION.search(_COMMAND.sub("", output))
        service = _SERVICE.search(output)
        words = {
            "project": self.cloud.project,
            "config": "configshydra/cloud/gcp.yaml",
            "account": self.account or "your account",
            "permission": permission["name"] if permission else "for this step",
            "service": f"{service['name']} " if service else "",
        }
        fitting = (advice for pattern, advice in _ADVICE if re.search(pattern, output))
        advice = next(fitting, "Show all commands with `--dry-run`.").format(**words)
        return f"Step {step!r} failed: {reason}. {advice}"


class TemporaryCloudError(CloudError):
    """A failure that a later attempt may not have."""


def capitalised(step: str) -> str:
    """Returns the name of a step with a capital letter, for the log."""
    return step[:1].upper() + step[1:]
