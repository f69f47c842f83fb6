"""Input and output: files, buckets, Git, secrets, child processes, progress bars."""
