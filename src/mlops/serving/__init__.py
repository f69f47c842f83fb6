"""The parts of the service; a request meets `protocol`, `guards`, `uploads`, `engine` and `answers`, in this order."""
