"""Google Cloud by way of the `gcloud` command: set up, build, train, deploy, tear down."""
