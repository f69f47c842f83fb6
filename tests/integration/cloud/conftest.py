"""The double of `gcloud` of the unit tests."""

from tests.unit.cloud.conftest import gcloud as gcloud
from tests.unit.cloud.conftest import ready as ready
