"""The parts of the service; a request meets `processes`, `guards`, `uploads`, `engine` and `answers`, in this order."""
