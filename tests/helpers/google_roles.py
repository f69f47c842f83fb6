"""Permissions of the predefined roles of Google Cloud, as far as the commands of this repository need them.

Source: the lists of the IAM API (`gcloud iam roles describe`) in github.com/iann0036/iam-dataset, commit 2073fa52 of
2026-08-22. A role that is not listed here has no permission in the tests.
"""

_READ_OBJECTS = {"storage.objects.get", "storage.objects.list"}
_WRITE_OBJECTS = {*_READ_OBJECTS, "storage.objects.create", "storage.objects.delete", "storage.objects.update"}
_READ_IMAGES = {
    "artifactregistry.dockerimages.get",
    "artifactregistry.dockerimages.list",
    "artifactregistry.packages.list",
    "artifactregistry.repositories.downloadArtifacts",
    "artifactregistry.repositories.get",
    "artifactregistry.tags.get",
    "artifactregistry.tags.list",
    "artifactregistry.versions.get",
    "artifactregistry.versions.list",
}

ROLES: dict[str, set[str]] = {
    "roles/aiplatform.user": {
        "aiplatform.customJobs.cancel",
        "aiplatform.customJobs.create",
        "aiplatform.customJobs.get",
        "aiplatform.customJobs.list",
    },
    "roles/artifactregistry.reader": _READ_IMAGES,
    "roles/artifactregistry.writer": {
        *_READ_IMAGES,
        "artifactregistry.repositories.uploadArtifacts",
        "artifactregistry.tags.create",
        "artifactregistry.tags.update",
    },
    "roles/cloudbuild.builds.editor": {"cloudbuild.builds.create", "cloudbuild.builds.get", "cloudbuild.builds.list"},
    "roles/iam.serviceAccountOpenIdTokenCreator": {"iam.serviceAccounts.getOpenIdToken"},
    "roles/iam.serviceAccountTokenCreator": {
        "iam.serviceAccounts.getAccessToken",
        "iam.serviceAccounts.getOpenIdToken",
    },
    "roles/iam.serviceAccountUser": {"iam.serviceAccounts.actAs", "iam.serviceAccounts.get"},
    "roles/iam.workloadIdentityUser": {"iam.serviceAccounts.getAccessToken", "iam.serviceAccounts.getOpenIdToken"},
    "roles/logging.logWriter": {"logging.logEntries.create"},
    "roles/monitoring.metricWriter": {
        "monitoring.metricDescriptors.create",
        "monitoring.metricDescriptors.get",
        "monitoring.metricDescriptors.list",
        "monitoring.monitoredResourceDescriptors.get",
        "monitoring.monitoredResourceDescriptors.list",
        "monitoring.timeSeries.create",
    },
    "roles/run.developer": {
        "run.jobs.create",
        "run.jobs.get",
        "run.jobs.getIamPolicy",
        "run.jobs.run",
        "run.jobs.update",
        "run.revisions.get",
        "run.revisions.list",
        "run.routes.invoke",
        "run.services.create",
        "run.services.delete",
        "run.services.get",
        "run.services.getIamPolicy",
        "run.services.update",
    },
    "roles/run.invoker": {"run.jobs.run", "run.routes.invoke"},
    "roles/secretmanager.secretAccessor": {"secretmanager.versions.access"},
    "roles/serviceusage.serviceUsageConsumer": {"serviceusage.services.get", "serviceusage.services.use"},
    "roles/storage.admin": {
        *_WRITE_OBJECTS,
        "storage.buckets.delete",
        "storage.buckets.get",
        "storage.buckets.getIamPolicy",
        "storage.buckets.list",
        "storage.buckets.setIamPolicy",
        "storage.buckets.update",
    },
    "roles/storage.legacyBucketReader": {"storage.buckets.get", "storage.objects.list"},
    "roles/storage.objectUser": _WRITE_OBJECTS,
    "roles/storage.objectViewer": _READ_OBJECTS,
}
