"""The HTTP service. A request passes `protocol`, `middleware`, `app`, `uploads` and `batcher`, in this order."""
