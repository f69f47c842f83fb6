"""Google Cloud through the `gcloud` command: set up, build, train, deploy and tear down."""
